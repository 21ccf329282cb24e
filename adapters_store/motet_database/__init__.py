"""The records: one schema for adapters and tenants, on SQLite or PostgreSQL.

Knows nothing of adapter files, models or HTTP; imports no part of Motet.
"""

from motet_database.audit import Change, record
from motet_database.change_feed import ChangeFeed
from motet_database.database import Database
from motet_database.errors import (
    DatabaseFailure,
    DatabaseFull,
    DatabaseUnavailable,
    DatabaseUnusable,
)
from motet_database.legacy import Legacy

__all__ = [
    "Change",
    "ChangeFeed",
    "Database",
    "DatabaseFailure",
    "DatabaseFull",
    "DatabaseUnavailable",
    "DatabaseUnusable",
    "Legacy",
    "record",
]
