"""adapter_config.json, before it is known of which family it is."""

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.file_kinds import CONFIG_FILE
from motet_adapters.json_document import parse_object
from motet_adapters.names import quoted


def read_config(text: bytes) -> Fields:
    """The keys of a config that was written for a model like the one served.

    Raises AdapterRefused, with the key at fault as `param`.
    """
    fields = Fields(parse_object(text, CONFIG_FILE, CONFIG_FILE))
    task_type = fields.get("task_type")
    if task_type not in (None, "CAUSAL_LM"):
        raise AdapterRefused(
            f"task_type {quoted(task_type)} is not served: this server generates text (CAUSAL_LM).",
            "task_type",
        )
    return fields
