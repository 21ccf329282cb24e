import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from motet.api.errors import WrongContentType
from motet.api.multipart import form_files
from motet.errors import RequestRefused

BOUNDARY = "a-boundary"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


def form(parts: list[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, data in parts:
        disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        body += f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: x/y\r\n\r\n".encode()
        body += data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def parsed(body: bytes, cuts: list[int], kind: str = KIND) -> dict[str, bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
        for start, stop in pairwise(edges):
            yield body[start:stop]

    async def collect() -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        async for name, data in form_files(kind, chunks()):
            files[name] = files.get(name, b"") + data
        return files

    return asyncio.run(collect())


# Data that looks like the boundary is what a parser that works in pieces gets wrong.
data = st.lists(
    st.sampled_from([b"\r\n", b"--", b"\r\n--a-bound", b"\r", b"a-boundary", b"x", b"\x00\xff"]),
    max_size=12,
).map(b"".join)


@given(first=data, second=data, cuts=st.lists(st.integers(0, 1000), max_size=20))
def test_files_come_out_as_they_went_in_however_they_are_cut(
    first: bytes, second: bytes, cuts: list[int]
) -> None:
    whole = b"\r\n--" + BOUNDARY.encode()
    parts = [("one.json", first), ("two.safetensors", second)]
    if any(whole in b"\r\n" + content + b"\r\n" for _, content in parts):
        return  # not a form that may be made with this boundary
    assert parsed(form(parts), cuts) == dict(parts)


@given(body=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_anything_else_is_refused_in_a_sentence(body: bytes, cuts: list[int]) -> None:
    with pytest.raises(RequestRefused, match="malformed"):
        parsed(body, cuts)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=x", "x;boundary"]
)
def test_another_content_type_is_refused(kind: str) -> None:
    with pytest.raises(WrongContentType, match="multipart/form-data"):
        parsed(form([]), [], kind)


def test_a_part_with_endless_headers_is_refused() -> None:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=x\r\n".encode()
    for body in (head + b"X-Long: " + b"x" * 10_000, head + b"A: b\r\n" * 100):
        with pytest.raises(RequestRefused, match="malformed"):
            parsed(body, [])


def test_the_same_part_twice_is_refused() -> None:
    with pytest.raises(RequestRefused, match="more than once"):
        parsed(form([("a", b"1"), ("a", b"2")]), [])
