"""Which of the base's linears an upload adapts, by its config."""

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.names import listed
from motet_adapters.targets import TargetSpec, targeted, unknown_names


def targeted_linears(targets: TargetSpec, base: BaseWeights) -> list[str]:
    """In the base's order, at least one. Raises AdapterRefused for names that stand for nothing."""
    unknown = unknown_names(targets, base.modules())
    if unknown:
        raise AdapterRefused(
            f"target_modules names what is no linear layer of the base: {listed(unknown)}. "
            "Embeddings and lm_head can't be adapted. Train without them, or serve the base the "
            "adapter was trained on.",
            "target_modules",
        )
    modules = targeted(targets, base.modules())
    if not modules:
        raise AdapterRefused(
            "No module of the base is targeted: exclude_modules or layers_to_transform leaves "
            "none. Correct them to what was trained.",
            "target_modules",
        )
    return modules
