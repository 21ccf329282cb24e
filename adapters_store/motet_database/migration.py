"""From whatever schema a database has to this version's, by Alembic's numbered steps."""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from motet_database.errors import DatabaseUnusable

HEAD = "0002"
"""The newest revision under `migrations/versions`; a test holds the two equal."""


def upgrade(connection: Connection) -> bool:
    """Brings the schema to HEAD inside the caller's transaction; whether there was none before.

    Raises DatabaseUnusable for a schema of a later version of Motet.
    """
    before = MigrationContext.configure(connection).get_current_revision()
    if before == HEAD:
        return False
    if before is not None and before not in _known():
        raise DatabaseUnusable(
            f"The database has format {before}; this version of Motet reads {HEAD}. Use the "
            "version that wrote it, or an empty database."
        )
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
    return before is None


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "motet_database:migrations")
    return config
