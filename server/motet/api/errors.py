"""The one edge where exceptions become HTTP: status, OpenAI's error object, retry headers."""

import math
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from motet_adapters.errors import (
    AdapterError,
    AdapterNotFound,
    AdapterQuarantined,
    AdapterRefused,
    AdapterTooLarge,
    BlobsUnavailable,
    ConditionFailed,
    ImportFailed,
    ImportRefused,
    InvalidName,
    InvalidTag,
    StoreFull,
    VersionNotFound,
)
from motet_database import DatabaseFailure, DatabaseFull, DatabaseUnavailable
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from motet.errors import (
    EngineBusy,
    EngineStopped,
    Forbidden,
    MotetError,
    QuotaExceeded,
    RateLimited,
    RequestRefused,
    TenantExists,
    TenantNotFound,
    Unauthorized,
)

_BUSY_RETRY_S = 1
_STOPPED_RETRY_S = 5
_MAX_MESSAGE_CHARS = 4000


class ModelNotFound(MotetError):
    """No model of that name for this tenant. Another tenant's adapter is told the same way."""

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= 80 else name[:77] + "..."
        super().__init__(
            f"The model {shown!a} does not exist. GET /v1/models lists the ones you can use.",
            "model_not_found",
            "model",
        )


class BodyTooLarge(MotetError):
    """The request body is over the limit of its route."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is larger than the {limit} bytes allowed here; send less.",
            "body_too_large",
        )


class HeadersTooLarge(MotetError):
    """URL and headers together are over the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The URL and headers are larger than {limit} bytes; send fewer or shorter ones.",
            "headers_too_large",
        )


class BodyStalled(MotetError):
    """The client stopped sending before its body was complete."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"No byte of the request body came for {seconds:g} seconds; send it again.",
            "body_stalled",
        )


class WrongContentType(MotetError):
    """The body is declared as something the route does not take."""


class AlreadyThere(MotetError):
    """What was to be created exists, or is in the way."""


class UploadNotFound(MotetError):
    """No upload by that name is waiting to be committed."""


class TooManyUploads(MotetError):
    """As many uploads are under way as may be; the same one may succeed later."""


class ClientTooSlow(MotetError):
    """The client reads its stream slower than the model writes."""


class GenerationFailed(MotetError):
    """The engine ended a request in an error."""


@dataclass(frozen=True)
class Refusal:
    """How one exception is told: the body of `error` and what goes around it."""

    status: int
    type: str
    message: str
    code: str | None
    param: str | None = None
    retry_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        message = self.message[:_MAX_MESSAGE_CHARS]
        error = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self, request_id: str | None = None) -> JSONResponse:
        headers = dict(self.headers)
        if self.retry_s is not None:
            headers["retry-after"] = str(math.ceil(self.retry_s))
            headers["retry-after-ms"] = str(round(self.retry_s * 1000))
        if request_id is not None:
            headers["x-request-id"] = request_id
        return JSONResponse(self.body(), self.status, headers)


# OpenAI's clients repeat a 409 and a 5xx unless told not to; neither of these gets better by it.
_FINAL = {"x-should-retry": "false"}
_INVALID, _NOT_FOUND, _SERVER = "invalid_request_error", "not_found_error", "server_error"

# The first class that an exception is an instance of decides: subclasses before their base.
_KINDS: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (Unauthorized, 401, "authentication_error", "invalid_api_key"),
    (Forbidden, 403, "permission_error", "forbidden"),
    (ModelNotFound, 404, _NOT_FOUND, None),
    (TenantNotFound, 404, _NOT_FOUND, None),
    (QuotaExceeded, 403, "permission_error", None),
    (TenantExists, 409, _INVALID, None),
    (UploadNotFound, 404, _NOT_FOUND, None),
    (TooManyUploads, 503, _SERVER, "too_many_uploads"),
    (AlreadyThere, 409, _INVALID, None),
    (BodyTooLarge, 413, _INVALID, None),
    (HeadersTooLarge, 431, _INVALID, None),
    (BodyStalled, 408, _INVALID, None),
    (WrongContentType, 415, _INVALID, "wrong_content_type"),
    (RequestRefused, 400, _INVALID, "invalid_request"),
    (EngineBusy, 503, _SERVER, "engine_busy"),
    (EngineStopped, 503, _SERVER, "engine_stopped"),
    (ClientTooSlow, 408, _INVALID, "client_too_slow"),
    (GenerationFailed, 500, _SERVER, "generation_failed"),
    (AdapterNotFound, 404, _NOT_FOUND, None),
    (VersionNotFound, 404, _NOT_FOUND, None),
    (ConditionFailed, 412, _INVALID, None),
    (AdapterQuarantined, 409, _INVALID, None),
    (AdapterTooLarge, 413, _INVALID, None),
    (AdapterRefused, 422, _INVALID, None),
    (InvalidName, 400, _INVALID, None),
    (ImportRefused, 403, "permission_error", None),
    (ImportFailed, 422, _INVALID, None),
    (InvalidTag, 400, _INVALID, None),
    (StoreFull, 507, _SERVER, None),
    (DatabaseFull, 507, _SERVER, None),
    (BlobsUnavailable, 503, _SERVER, None),
    (DatabaseUnavailable, 503, _SERVER, None),
)
_HEADERS: dict[type[Exception], dict[str, str]] = {
    Unauthorized: {"www-authenticate": "Bearer"},
    TenantExists: _FINAL,
    AlreadyThere: _FINAL,
    GenerationFailed: _FINAL,
    AdapterQuarantined: _FINAL,
    StoreFull: _FINAL,
    DatabaseFull: _FINAL,
}
_RETRY_S: dict[type[Exception], float] = {
    EngineBusy: _BUSY_RETRY_S,
    TooManyUploads: _BUSY_RETRY_S,
    EngineStopped: _STOPPED_RETRY_S,
    BlobsUnavailable: _BUSY_RETRY_S,
    DatabaseUnavailable: _BUSY_RETRY_S,
}


def refusal(error: Exception) -> Refusal:
    """How `error` is told to a client. Anything unknown is a 500 that says nothing of its cause."""
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, RateLimited):
        return _of_rate_limit(error)
    if isinstance(error, (MotetError, AdapterError, DatabaseFailure)):
        for kind, status, type_, code in _KINDS:
            if isinstance(error, kind):
                return Refusal(
                    status,
                    type_,
                    error.message,
                    error.code or code,
                    error.param,
                    _RETRY_S.get(kind),
                    _HEADERS.get(kind, {}),
                )
    return Refusal(
        500,
        _SERVER,
        "The server failed on this request. If it keeps happening, give its operator the "
        "x-request-id of this reply.",
        "internal_error",
    )


def _of_http(error: HTTPException) -> Refusal:
    sentences = {
        404: "There is no such route; the API's routes are under /v1.",
        405: "This route does not know that method.",
    }
    message = sentences.get(error.status_code, str(error.detail))
    kind = _NOT_FOUND if error.status_code == 404 else _INVALID
    headers = dict(error.headers or {})
    return Refusal(error.status_code, kind, message, _http_code(error.status_code), headers=headers)


def _http_code(status: int) -> str:
    return {404: "route_not_found", 405: "method_not_allowed"}.get(status, "invalid_request")


def _of_rate_limit(error: RateLimited) -> Refusal:
    """OpenAI's 429, whose type says what there was too much of."""
    headers = _FINAL if error.retry_s is None else {}
    code = error.code or "rate_limit_exceeded"
    return Refusal(429, error.kind, error.message, code, error.param, error.retry_s, headers)


def _of_validation(error: RequestValidationError) -> Refusal:
    """A wrong query or path parameter; bodies are checked in `json_body`."""
    first = error.errors()[0]
    param = str(first["loc"][-1])[:64]
    return Refusal(400, _INVALID, f"{param}: {first['msg']}", "invalid_request", param)
