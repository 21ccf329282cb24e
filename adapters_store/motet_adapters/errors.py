"""Everything this package refuses, each with a sentence that names the fix.

`code` is stable and meant for programs, `message` for people, `param` names the field or file that
is at fault. No message holds a path of the server.
"""


class AdapterError(Exception):
    """Base of all errors below."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class AdapterRefused(AdapterError):
    """The upload is not an adapter this server can serve on its base model."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, "adapter_refused", param)


class AdapterTooLarge(AdapterError):
    """The upload, or what it would occupy on the device, is over a limit."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, "adapter_too_large", param)


class AdapterNotFound(AdapterError):
    """This tenant has no adapter of that name."""

    def __init__(self, name: str) -> None:
        shown = ascii(name)[:80]
        super().__init__(f"There is no adapter named {shown}.", "adapter_not_found", "name")
        self.name = name


class VersionNotFound(AdapterError):
    """The adapter is there, but has no version of that number (any more)."""

    def __init__(self, name: str, number: int | None) -> None:
        shown = ascii(name)[:80]
        which = "version older than the one it serves" if number is None else f"version {number}"
        super().__init__(
            f"The adapter {shown} has no {which}; list its versions to see those kept.",
            "version_not_found",
            "version",
        )


class ConditionFailed(AdapterError):
    """What a change was made to depend on does not hold. Nothing was changed."""


class AdapterLoadFailed(AdapterError):
    """A published adapter could not be made ready to run."""

    def __init__(self, digest: str, message: str) -> None:
        super().__init__(message, "adapter_load_failed")
        self.digest = digest


class AdapterQuarantined(AdapterLoadFailed):
    """The stored bytes of this adapter failed their check. They serve again once uploaded again."""

    def __init__(self, digest: str) -> None:
        super().__init__(
            digest, "The stored files of this adapter are damaged or gone. Upload it again."
        )
        self.code = "adapter_quarantined"


class InvalidName(AdapterError):
    """A tenant or adapter name outside the rule of `names.py`."""

    def __init__(self, message: str, param: str = "name") -> None:
        super().__init__(message, "invalid_name", param)


class InvalidTag(AdapterError):
    """A tag outside the rule of `tags.py`, or too many of them."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "invalid_tag", "tag")


class StoreFull(AdapterError):
    """The disk, or the quota on it, has no room. Nothing was changed."""

    def __init__(self) -> None:
        super().__init__(
            "The adapter store has no room on disk. Delete adapters or give the store more space, "
            "then upload again.",
            "store_full",
        )


class ImportRefused(AdapterError):
    """A URL that adapters may not be imported from."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "import_refused", "url")


class ImportFailed(AdapterError):
    """An allowed URL where no adapter is, or none that can be read."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "import_failed", "url")


class BlobsUnavailable(AdapterError):
    """The shared store of adapter files does not answer. Nothing was changed."""

    def __init__(self) -> None:
        super().__init__(
            "The store of adapter files does not answer at the moment; try again shortly.",
            "blobs_unavailable",
        )


class StoreUnusable(AdapterError):
    """The store can't be opened: another process holds it, or its registry is damaged."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "store_unusable")
