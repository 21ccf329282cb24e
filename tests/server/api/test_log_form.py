import io
import json
import logging
import logging.config
from typing import Literal

import pytest
from motet.api.log_form import JsonForm, TextForm, log_config


def line(form: logging.Formatter, message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "motet", **extra})
    return form.format(record)


def test_text_is_one_line_with_the_fields_behind() -> None:
    told = line(TextForm(), "GET /v1/models 200", request_id="abc", tenant="acme", seconds=0.5)
    assert told.endswith("GET /v1/models 200 [request_id=abc tenant=acme seconds=0.5]")
    assert line(TextForm(), "started").endswith("INFO motet started")


def test_json_is_one_object_a_line() -> None:
    told = line(JsonForm(), 'a "quoted"\nline', request_id="abc")
    assert "\n" not in told
    document = json.loads(told)
    assert document["message"] == 'a "quoted"\nline'
    assert document["request_id"] == "abc"
    assert document["time"].endswith("Z")
    assert "tenant" not in document


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_configuration_is_valid_and_hears_motet(form: Literal["text", "json"]) -> None:
    root, own = logging.getLogger(), logging.getLogger("motet")
    before = root.handlers[:], root.level, own.level
    try:
        logging.config.dictConfig(log_config(form))
        assert own.isEnabledFor(logging.INFO)
        assert not logging.getLogger("another_package").isEnabledFor(logging.INFO)
        stream = io.StringIO()
        root.handlers[0].setStream(stream)  # type: ignore[attr-defined]
        try:
            raise ValueError("cause")
        except ValueError:
            own.exception("failed")
        assert "cause" in stream.getvalue()
        if form == "json":
            assert "Traceback" in json.loads(stream.getvalue())["exception"]
    finally:
        root.handlers[:], root.level, own.level = before
