import json
from typing import Any

from tests.support.live_server import LiveServer


def body_of(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    (content,) = document["paths"][path][method]["requestBody"]["content"].items()
    kind, described = content
    return {"kind": kind, **described["schema"]}


def test_the_description_has_every_body(server: LiveServer) -> None:
    with server.client() as client:
        document = client.get("/openapi.json").json()
    completion = body_of(document, "post", "/v1/completions")
    assert completion["kind"] == "application/json"
    assert set(completion["required"]) == {"model", "prompt"}
    assert completion["additionalProperties"] is False
    chat = body_of(document, "post", "/v1/chat/completions")
    assert chat["properties"]["messages"]["items"]["properties"]["role"]["enum"]
    upload = body_of(document, "put", "/v1/adapters/{name}")
    assert upload["kind"] == "multipart/form-data"
    assert set(upload["required"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert body_of(document, "put", "/v1/adapters/{name}/files/{filename}")["format"] == "binary"
    assert body_of(document, "post", "/admin/tenants")["required"] == ["name"]


def test_nothing_in_it_refers_to_what_is_not_there(server: LiveServer) -> None:
    with server.client() as client:
        text = client.get("/openapi.json").text
    assert "#/$defs/" not in text
    known = json.loads(text).get("components", {}).get("schemas", {})
    for reference in text.split('"$ref":"#/components/schemas/')[1:]:
        assert reference.partition('"')[0] in known
