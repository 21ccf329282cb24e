"""/v1/adapters/{name}/files: an upload file by file, each continued where a connection broke."""

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter
from motet_adapters import Staging
from motet_adapters.file_kinds import WEIGHTS_FILE, refuse_foreign_name
from motet_adapters.names import quoted
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.description import file_of
from motet.api.errors import UploadNotFound
from motet.api.service import Service
from motet.api.uploads import FILES, finished_in
from motet.errors import RequestRefused

Uploader = Callable[[Request, str], str]
"""The tenant that may upload by that name; raises for anybody else."""


def files_router(service: Service, uploader: Uploader) -> APIRouter:
    """To be included in that of /v1/adapters."""
    router = APIRouter(prefix="/{name}/files")

    @router.put("/{filename}", openapi_extra=file_of())
    async def upload_file(request: Request, name: str, filename: str) -> Response:
        """One file, or the rest of it, as the raw body; `commit` publishes them.

        Upload-Offset says where the body continues a broken upload; Repr-Digest (RFC 9530) what
        SHA-256 the whole file must have.
        """
        tenant = uploader(request, name)
        if filename not in FILES:
            # Refused before it can cost the client a file that came in well.
            raise refuse_foreign_name(filename, quoted(filename))
        offset, digest = _offset(request), _digest(request)
        desk = service.desk
        with desk.receiving(tenant), desk.adding(tenant, name, filename, offset) as staging:
            await desk.write_all(staging, _of_one(filename, request.stream()))
            _require_digest(staging, filename, digest)
            return _told(name, filename, staging)

    @router.post("/{filename}")
    async def reuse_file(request: Request, name: str, filename: str) -> Response:
        """The weights without their bytes, where the tenant has stored them already.

        Repr-Digest says which. 404: upload them.
        """
        tenant = uploader(request, name)
        digest = _digest(request)
        if filename != WEIGHTS_FILE or digest is None:
            raise RequestRefused(
                f"Only {WEIGHTS_FILE} can be used again, named by the header Repr-Digest.",
                "bad_reuse",
            )
        if not service.store.has_weights(tenant, digest.hex()):
            raise _unknown_file(filename)
        desk, store = service.desk, service.store
        with desk.receiving(tenant), desk.adding(tenant, name, filename, None) as staging:
            if not await finished_in(None, store.reuse_weights, tenant, digest.hex(), staging):
                raise _unknown_file(filename)
            return _told(name, filename, staging)

    @router.head("/{filename}")
    async def is_stored(request: Request, name: str, filename: str) -> Response:
        """Whether POST could take the file from what this tenant has stored; 404: PUT it.

        Repr-Digest says which. What other tenants have is never looked at: neither the answer nor
        its time tells of it.
        """
        tenant, digest = service.gate.tenant(request), _digest(request)
        if digest is None:
            raise RequestRefused(
                "Name the file by its SHA-256 in the header Repr-Digest.", "bad_digest"
            )
        if filename != WEIGHTS_FILE or not service.store.has_weights(tenant, digest.hex()):
            raise _unknown_file(filename)
        return Response()

    @router.get("")
    async def sent_files(request: Request, name: str) -> dict[str, Any]:
        """What has come of an upload that is not committed: where to continue it."""
        tenant = service.gate.tenant(request)
        files = [
            {
                "filename": file.filename,
                "bytes": file.num_bytes,
                "sha256": file.sha256,
                "complete": file.is_whole,
            }
            for file in service.desk.received(tenant, name)
        ]
        return {"id": name, "object": "adapter.upload", "files": files}

    @router.delete("")
    async def discard_files(request: Request, name: str) -> dict[str, Any]:
        """Drops the files that were sent and not committed."""
        service.desk.discard(service.gate.tenant(request), name)
        return {"id": name, "object": "adapter.upload", "deleted": True}

    return router


def _told(name: str, filename: str, staging: Staging) -> Response:
    received = staging.received(filename)
    return JSONResponse(
        {
            "object": "adapter.file",
            "adapter": name,
            "filename": filename,
            "bytes": received,
            "sha256": staging.sha256(filename),
        },
        201,
        {"upload-offset": str(received)},
    )


def _unknown_file(filename: str) -> UploadNotFound:
    return UploadNotFound(f"You have no {filename} with that SHA-256 stored; PUT it.", "no_file")


async def _of_one(filename: str, body: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, bytes]]:
    """An empty piece first: an empty file is a file too."""
    yield filename, b""
    async for chunk in body:
        yield filename, chunk


def _offset(request: Request) -> int | None:
    text = request.headers.get("upload-offset")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise RequestRefused(
            "Upload-Offset is the number of bytes of the file that are here already, as GET "
            ".../files tells it.",
            "bad_offset",
            "upload-offset",
        )
    return int(text)


def _digest(request: Request) -> bytes | None:
    """The SHA-256 that Repr-Digest asks for (`sha-256=:BASE64:`)."""
    text = request.headers.get("repr-digest")
    if text is None:
        return None
    algorithm, _, value = text.strip().partition("=")
    try:
        digest = base64.b64decode(value[1:-1], validate=True)
    except binascii.Error:
        digest = b""
    if algorithm != "sha-256" or value[:1] + value[-1:] != "::" or len(digest) != 32:
        raise RequestRefused(
            "Repr-Digest must be sha-256=:BASE64:, the SHA-256 of the whole file.",
            "bad_digest",
            "repr-digest",
        )
    return digest


def _require_digest(staging: Staging, filename: str, digest: bytes | None) -> None:
    """Raises, which drops the upload: what of it is wrong can't be told."""
    if digest is not None and staging.sha256(filename) != digest.hex():
        raise RequestRefused(
            f"What came of {filename} does not have the SHA-256 in Repr-Digest. The upload was "
            "dropped; send it again.",
            "digest_mismatch",
            "repr-digest",
        )
