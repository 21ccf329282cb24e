"""The exceptions of the server, one tree. `motet.api.errors` says what each means over HTTP.

Every message is a sentence for the person who gets it: it says what to change, and never carries
a server path or another tenant's data.
"""


class MotetError(Exception):
    """Anything the server refuses or cannot do, with a sentence that names the fix.

    `code` is a stable word for programs, `param` the request field (or setting) at fault.
    """

    def __init__(self, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class InvalidSetting(MotetError):
    """A setting is unknown, malformed, or unsafe together with the others."""


class UnsupportedModel(MotetError):
    """The base model cannot be served: it could not be loaded, or the start-up probe failed."""


class EngineBusy(MotetError):
    """The waiting line is full; the same request may succeed later."""


class EngineStopped(MotetError):
    """The engine is stopping, or has failed, and takes no more requests."""


class RequestRefused(MotetError):
    """This request can never run as it is: prompt too long, parameter out of range, ..."""


class Unauthorized(MotetError):
    """No key where one is needed, or a key that is not known."""


class Forbidden(MotetError):
    """A known caller asked for something its key does not open."""


class TenantNotFound(MotetError):
    """No tenant (or no key of it) with this name."""


class TenantExists(MotetError):
    """A tenant with this name is already there."""


class QuotaExceeded(MotetError):
    """The tenant may not have more of this; trying again does not help."""


class RateLimited(MotetError):
    """The tenant has used up what it may use at a time.

    `kind` is what was limited: "requests" or "tokens". `retry_s` is when to try again, in
    seconds; None: this request is over the limit by itself, and never gets through.
    """

    def __init__(
        self,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        kind: str = "requests",
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message, code, param)
        self.kind = kind
        self.retry_s = retry_s
