"""How log lines look: for people, or one JSON object each."""

import json
import logging
import time
from typing import Any, Literal

_FIELDS = ("request_id", "tenant", "seconds")


class TextForm(logging.Formatter):
    """`2026-01-31 12:00:00 INFO motet.access GET /v1/models 200 [request_id=... tenant=...]`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        line = super().formatMessage(record)
        return f"{line} [{fields}]" if fields else line


class JsonForm(logging.Formatter):
    """One JSON object a line, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info is not None:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def log_config(form: Literal["text", "json"]) -> dict[str, Any]:
    """For logging.config.dictConfig: everything to stderr in one form."""
    kind = "JsonForm" if form == "json" else "TextForm"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"motet.api.log_form.{kind}"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        # Libraries are heard when something is wrong.
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"motet": {"level": "INFO"}},
    }


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the logging call added; the request id and the like."""
    found = {name: getattr(record, name, None) for name in _FIELDS}
    return {name: value for name, value in found.items() if value is not None}
