"""A JSON request body: bytes in, a checked model out, or a 400 that names the field."""

import asyncio
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import Request

from motet.api.errors import WrongContentType
from motet.errors import RequestRefused

_Schema = TypeVar("_Schema", bound=BaseModel)

# Parsing this much takes about a millisecond; anything larger is parsed off the event loop.
_SMALL_BODY_BYTES = 64 * 1024
_MAX_PATH_CHARS = 80


async def read_json(
    request: Request, schema: type[_Schema], max_depth: int, context: object = None
) -> _Schema:
    """The body of `request` as `schema`, validated with `context`.

    Raises WrongContentType unless it is declared as JSON: browsers may send anything else across
    origins unasked. Raises RequestRefused for malformed JSON and for the first wrong field.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise WrongContentType("Send JSON, with the header Content-Type: application/json.")
    body = await request.body()
    if len(body) <= _SMALL_BODY_BYTES:
        return parse_json(body, schema, max_depth, context)
    return await asyncio.to_thread(parse_json, body, schema, max_depth, context)


def parse_json(
    body: bytes, schema: type[_Schema], max_depth: int, context: object = None
) -> _Schema:
    """`read_json` without the request. Linear in the size of the body."""
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        # The parser's message gives a position and no content.
        raise RequestRefused(f"The body is not valid JSON: {error}.", "invalid_json") from None
    # A body with few brackets cannot be deep, and most have few.
    if body.count(b"[") + body.count(b"{") > max_depth and depth(document) > max_depth:
        raise RequestRefused(
            f"The JSON body is nested deeper than {max_depth} levels; flatten it.", "json_too_deep"
        )
    if not isinstance(document, dict):
        raise RequestRefused("The JSON body must be an object.", "invalid_json")
    try:
        return schema.model_validate(document, context=context)
    except ValidationError as error:
        raise _refused(error, schema) from None


def depth(document: Any) -> int:
    """Levels of nesting; 0 for a bare value. Iterative, so that depth cannot exhaust the stack."""
    level, current = 0, [document]
    while current := [item for item in current if isinstance(item, (dict, list))]:
        level += 1
        current = [
            child
            for item in current
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return level


def _refused(error: ValidationError, schema: type[BaseModel]) -> RequestRefused:
    first = error.errors(include_url=False, include_input=False)[0]
    context: Mapping[str, Any] = first.get("ctx", {})
    param = context["param"] if "param" in context else _path(first)
    if first["type"] == "extra_forbidden":
        return RequestRefused(_unknown(first, param, schema), "unknown_parameter", param)
    code = {"unsupported": "unsupported_parameter", "missing": "missing_parameter"}
    message = first["msg"].removeprefix("Value error, ")
    if not message.startswith(param):
        message = f"{param}: {message}"
    return RequestRefused(_sentence(message), code.get(first["type"], "invalid_parameter"), param)


def _path(detail: ErrorDetails) -> str:
    """Where the error is, such as `messages.2.role`; a field's name may be the client's own."""
    path = ".".join(str(step) for step in detail["loc"])
    return path.encode("ascii", "backslashreplace").decode()[:_MAX_PATH_CHARS]


def _unknown(detail: ErrorDetails, param: str, schema: type[BaseModel]) -> str:
    message = f"The parameter {param!a} is not known."
    name = str(detail["loc"][-1])
    if len(detail["loc"]) == 1 and len(name) <= _MAX_PATH_CHARS:
        near = difflib.get_close_matches(name, schema.model_fields, n=1)
        if near:
            return f"{message} Did you mean {near[0]!r}?"
    return f"{message} Leave it out."


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?", "!")) else f"{message}."
