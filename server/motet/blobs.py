"""Where several servers share the uploaded files, if the settings name such a place."""

from motet_adapters import Origin, StoreUnusable

from motet.errors import InvalidSetting
from motet.settings import Settings


def open_origin(settings: Settings) -> Origin | None:
    """None: this server's data directory alone has them. Raises InvalidSetting."""
    if settings.blob_url is None:
        return None
    try:
        return Origin(settings.blob_url)
    except StoreUnusable as error:
        raise InvalidSetting(error.message, error.code, "MOTET_BLOB_URL") from None
