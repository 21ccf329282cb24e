"""Requests whose form, not whose files, is made to harm: parts, headers, names, encodings."""

import gzip
import os
from collections.abc import Iterator

import httpx
import pytest

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from tests.support.hostile_costs import counted
from tests.support.hostile_files import valid
from tests.support.hostile_mutations import BOUNDARY, form
from tests.support.live_server import LiveServer

PATH = "/v1/adapters/hostile"
EDGE = b"--" + BOUNDARY.encode()
FILES = valid()
VALID = form(FILES.config_bytes, FILES.weights_bytes)


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client("acme") as client:
        # What is imported, or read of the source, at the first use is not the requests' doing.
        put(client, b"")
        client.put(f"{PATH}/files/x", content=b"")
        yield client


def put(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return client.put(PATH, content=body, headers={"content-type": kind, **headers})


def part(disposition: bytes, data: bytes = b"{}", *headers: bytes) -> bytes:
    lines = [EDGE, b"Content-Disposition: " + disposition, *headers, b"", data]
    return b"\r\n".join(lines) + b"\r\n"


def named(filename: bytes, data: bytes = b"{}") -> bytes:
    return part(b'form-data; name="x"; filename="%b"' % filename, data)


END = EDGE + b"--\r\n"
FORMS: dict[str, tuple[bytes, int]] = {
    "20,000 parts": (b"".join(named(b"f%d" % i) for i in range(20_000)) + END, 422),
    "20,000 times the config": (named(CONFIG_FILE.encode()) * 20_000 + END, 400),
    "20,000 empty names": (named(b"", b"") * 20_000 + END, 400),
    "no headers": (EDGE + b"\r\n\r\n{}\r\n" + END, 422),
    "100 headers": (part(b"form-data", b"{}", *[b"A: b"] * 100) + END, 400),
    "a header of 5 MB": (part(b'form-data; name="%b"' % (b"a" * 5_000_000)) + END, 400),
    "a header's name of 5 MB": (EDGE + b"\r\n" + b"a" * 5_000_000 + b": b\r\n\r\n" + END, 400),
    "headers without end": (EDGE + b"\r\n" + b"A: b\r\n" * 500_000, 400),
    "almost boundaries": (named(b"a", b"\r\n" + EDGE[:-1] * 100_000) + END, 422),
    "almost boundaries in the config": (
        named(CONFIG_FILE.encode(), (b"\r\n" + EDGE[:-1]) * 5_000) + END,
        422,
    ),
    "returns": (EDGE + b"\r" * 2_000_000, 400),
    "a form in a part": (named(CONFIG_FILE.encode(), VALID) + END, 422),
    "NUL in a name": (named(CONFIG_FILE.encode() + b"\0") + END, 422),
    "a path": (named(b"../../" + CONFIG_FILE.encode()) + END, 422),
    "a path of another system": (named(b"..\\..\\" + WEIGHTS_FILE.encode()) + END, 422),
    "an absolute path": (named(b"/etc/passwd") + END, 422),
    "a name in percents": (named(b"%2e%2e%2f" + CONFIG_FILE.encode()) + END, 422),
    "a name that is no text": (named(b"\xff\xfe" + CONFIG_FILE.encode()) + END, 422),
    "a name that ends a line": (named(b"a%0d%0aSet-Cookie: x=y") + END, 422),
    "lines in a name": (named(b"a\r\nX-Evil: yes") + END, 422),
    "base64": (
        part(
            b'form-data; name="x"; filename="adapter_config.json"',
            b"e30=",
            b"Content-Transfer-Encoding: base64",
        )
        + END,
        422,
    ),
    "the end only": (END, 422),
    "cut in the last boundary": (VALID[:-3], 400),
    "another boundary": (VALID.replace(BOUNDARY.encode(), b"other"), 400),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_hostile_form_is_refused(server: LiveServer, client: httpx.Client, name: str) -> None:
    body, status = FORMS[name]
    with counted() as costs:
        reply = put(client, body)
    assert reply.status_code == status, reply.text
    require_refused(server, client, reply)
    costs.require_modest(server.settings.data_dir)


def test_a_compressed_body_is_not_unpacked(server: LiveServer, client: httpx.Client) -> None:
    bomb = gzip.compress(form(b" " * 200_000_000, b""))
    assert len(bomb) < 1_000_000
    with counted() as costs:
        replies = [put(client, bomb, **{"content-encoding": kind}) for kind in ("gzip", "identity")]
    for reply in replies:
        assert reply.status_code == 400
        require_refused(server, client, reply)
    costs.require_modest(server.settings.data_dir)


@pytest.mark.parametrize(
    "filename",
    [
        "..%2f..%2fadapter_config.json",
        "%252e%252e%252fadapter_config.json",
        "adapter_config.json%00",
        "adapter_config.json%0a",
        "adapter_model.bin",
        "ADAPTER_CONFIG.JSON",
        "%ff%fe",
        "a" * 5000,
    ],
)
def test_a_hostile_file_name_is_refused(
    server: LiveServer, client: httpx.Client, filename: str
) -> None:
    with counted() as costs:
        reply = client.put(f"{PATH}/files/{filename}", content=b"{}")
    assert reply.status_code in (404, 405, 422), reply.text
    require_refused(server, client, reply)
    costs.require_modest(server.settings.data_dir)


def require_refused(server: LiveServer, client: httpx.Client, reply: httpx.Response) -> None:
    message = reply.json()["error"]["message"]
    assert message.isascii()
    assert message.isprintable()
    assert len(reply.content) < 8192
    assert str(server.settings.data_dir) not in reply.text
    assert "set-cookie" not in reply.headers
    assert client.get(PATH).status_code == 404
    assert os.listdir(server.settings.data_dir / "adapters" / "staging") == []
