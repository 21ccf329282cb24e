"""Column types that are the same on SQLite's strict tables and on PostgreSQL."""

import json
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, LargeBinary, Text
from sqlalchemy.types import TypeDecorator

# SQLite's INTEGER is 64 bits wide, and the only name a strict table takes for it.
Int64 = BigInteger().with_variant(Integer(), "sqlite")
Bytes = LargeBinary()


class JsonText(TypeDecorator[Any]):
    """A JSON document as text, so that SQL tools show it and a strict table takes it.

    Reading a text that is no JSON raises ValueError.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
