"""Places for files outside the data directory, as the settings name them."""

from motet_adapters import ImportRefused, Origin, Prefixes, StoreUnusable

from motet.errors import InvalidSetting
from motet.settings import Settings


def open_origin(settings: Settings) -> Origin | None:
    """Where several servers share the uploaded files. None: this server's data
    directory alone has them. Raises InvalidSetting."""
    if settings.blob_url is None:
        return None
    try:
        return Origin(settings.blob_url)
    except StoreUnusable as error:
        raise InvalidSetting(error.message, error.code, "MOTET_BLOB_URL") from None


def import_prefixes(settings: Settings) -> Prefixes:
    """From below which adapters may be imported; maybe none. Raises InvalidSetting."""
    given = (url.strip() for url in (settings.import_prefixes or "").split(","))
    try:
        return Prefixes(url for url in given if url)
    except ImportRefused as error:
        raise InvalidSetting(error.message, error.code, "MOTET_IMPORT_PREFIXES") from None
