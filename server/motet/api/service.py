"""The parts a route works with, built once by `build_app` and handed to every router."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from motet_adapters import Adapter, AdapterStore

from motet.api.auth import Gate
from motet.api.background import background_threads
from motet.api.courier import Courier
from motet.api.kernels import KernelsInUse
from motet.api.lifecycle import Lifecycle
from motet.api.metrics import Metrics
from motet.api.schemas import Bounds
from motet.api.uploads import UploadDesk
from motet.engine.request import Event, Request
from motet.engine.stats import EngineStats
from motet.errors import RequestRefused
from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy


class TextEngine(Protocol):
    """The engine as HTTP sees it; `motet.engine.engine.Engine` is one."""

    @property
    def healthy(self) -> bool: ...

    @property
    def max_model_len(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def max_len(self, adapter: Adapter | None) -> int: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> None: ...

    def cancel(self, request_id: str) -> None: ...

    def stats(self) -> EngineStats: ...


class TextTokenizer(Protocol):
    """The tokenizer as HTTP sees it; `motet.engine.tokenizer.Tokenizer` is one."""

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str) -> Sequence[int]: ...

    def apply_chat(self, messages: Sequence[dict[str, str]]) -> Sequence[int]: ...

    def token_text(self, token_id: int) -> str: ...


@dataclass(frozen=True)
class ServedModel:
    """The base model, as clients see it."""

    name: str
    fingerprint: str  # SHA-256 (hex) of the quantised base
    created: int  # unix seconds


# No tokenizer in use has longer tokens; the longest are runs of spaces.
_MAX_TOKEN_CHARS = 128


def _text_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="motet-text")


def _publisher() -> ThreadPoolExecutor:
    return background_threads(1, "motet-publish", niceness=15)


@dataclass(frozen=True)
class Service:
    """What is shared by all requests. Holds no state of a request."""

    settings: Settings
    engine: TextEngine
    store: AdapterStore
    tenancy: Tenancy
    tokenizer: TextTokenizer
    model: ServedModel
    kernels: KernelsInUse
    gate: Gate
    lifecycle: Lifecycle
    metrics: Metrics
    bounds: Bounds
    desk: UploadDesk
    courier: Courier = field(default_factory=Courier)
    # Tokenising and templates: off the event loop, and few enough not to starve the engine.
    text_threads: ThreadPoolExecutor = field(default_factory=_text_threads)
    # One thread checks and publishes uploads, so that lowering an adapter takes one core at most
    # and "only if it does not exist" cannot race with another upload.
    publisher: ThreadPoolExecutor = field(default_factory=_publisher)

    def require_tokenisable(self, num_chars: int, param: str) -> None:
        """Raises RequestRefused for a text that is too long to be worth tokenising."""
        longest = self.engine.max_model_len * _MAX_TOKEN_CHARS
        if num_chars > longest:
            raise RequestRefused(
                f"A prompt of {num_chars} characters cannot fit into the model's context of "
                f"{self.engine.max_model_len} tokens. Shorten the prompt.",
                "context_length_exceeded",
                param,
            )

    def close(self) -> None:
        """Ends the threads, work begun being finished, and drops uploads not committed."""
        self.text_threads.shutdown(cancel_futures=True)
        self.publisher.shutdown(cancel_futures=True)
        self.desk.close()
