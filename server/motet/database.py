"""The database the settings name."""

from pathlib import Path

from motet_database import Database, DatabaseFailure, Legacy

from motet.errors import InvalidSetting
from motet.settings import Settings


def open_database(settings: Settings) -> Database:
    """For adapters and tenants alike; the caller closes it. Raises InvalidSetting."""
    legacy = _legacy(settings.data_dir)
    try:
        if settings.database_url is None:
            return Database.at_path(database_file(settings.data_dir), legacy)
        if legacy.files():
            raise InvalidSetting(
                "The data directory holds tenants or adapters of Motet 0.1, which are brought to "
                "this version in a file only. Leave database_url unset, or use an empty data_dir.",
                "older_format",
                "MOTET_DATABASE_URL",
            )
        return Database.at_url(settings.database_url.get_secret_value())
    except DatabaseFailure as error:
        param = "MOTET_DATA_DIR" if settings.database_url is None else "MOTET_DATABASE_URL"
        raise InvalidSetting(error.message, error.code, param) from None


def database_file(data_dir: Path) -> Path:
    """Where the database of a data directory is kept."""
    return data_dir / "motet.sqlite3"


def _legacy(data_dir: Path) -> Legacy:
    store = data_dir / "adapters"
    return Legacy(
        registry=store / "registry.sqlite3",
        tenants=data_dir / "tenants.sqlite",
        lock=store / "lock",
    )
