"""Request bodies for /openapi.json. FastAPI cannot see them: they are read in `json_body.py`."""

from typing import Any

from pydantic import BaseModel

_DEFINITIONS = "#/$defs/"


def json_of(schema: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes `schema` as JSON."""
    document = schema.model_json_schema()
    definitions = document.pop("$defs", {})
    return _body("application/json", _inlined(document, definitions))


def form_of(*filenames: str) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes these files as a form."""
    properties = {name: {"type": "string", "format": "binary"} for name in filenames}
    schema = {"type": "object", "properties": properties, "required": list(filenames)}
    return _body("multipart/form-data", schema)


def file_of() -> dict[str, Any]:
    """The `openapi_extra` of a route that takes one file as its body."""
    return _body("application/octet-stream", {"type": "string", "format": "binary"})


def _body(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """`part` with its references replaced by what they name; ours never refer to themselves."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref", "")
    if reference.startswith(_DEFINITIONS):
        return _inlined(definitions[reference.removeprefix(_DEFINITIONS)], definitions)
    return {name: _inlined(each, definitions) for name, each in part.items()}
