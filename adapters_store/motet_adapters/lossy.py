"""The key of adapter_config.json by which an upload is converted with a loss.

The server writes it there for uploads with lossy=true. It is a part of the config, so that the
digest, every remake and every server that shares the files know of it.
"""

import json

from motet_adapters.errors import AdapterRefused
from motet_adapters.file_kinds import CONFIG_FILE
from motet_adapters.json_document import parse_object

LOSSY_KEY = "motet_lossy_rank"
LOSSY_RANK = 32
"""Unless a rank is given."""


def with_lossy_rank(config: bytes, rank: int | None) -> bytes:
    """The config with the rank in it; as it is without a rank, or if it is no JSON object, which
    is refused later."""
    if rank is None:
        return config
    try:
        values = parse_object(config, CONFIG_FILE, CONFIG_FILE)
    except AdapterRefused:
        return config
    return json.dumps({**values, LOSSY_KEY: rank}, indent=2).encode()
