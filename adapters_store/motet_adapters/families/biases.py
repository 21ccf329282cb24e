"""The key `bias`, which most PEFT configs have."""

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.names import quoted


def require_no_bias(fields: Fields) -> None:
    """Raises AdapterRefused for a config that trained the base's biases too."""
    if fields.get("bias", "none") != "none":
        raise AdapterRefused(
            f"bias={quoted(fields.get('bias'))} is not served in this family: train with "
            "bias='none'.",
            "bias",
        )
