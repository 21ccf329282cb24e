"""What completions and chat differ in, seen from the route they share (`answer.py`)."""

from collections.abc import Sequence
from typing import Any, Protocol

from motet.api.piece import Piece
from motet.api.schemas import TextRequest


class Shape(Protocol):
    """One request in one of OpenAI's two forms. May keep state: a new one for each request."""

    @property
    def endpoint(self) -> str:
        """ "completions" or "chat", for the metrics."""

    @property
    def id_prefix(self) -> str: ...

    @property
    def whole_object(self) -> str: ...

    @property
    def chunk_object(self) -> str: ...

    @property
    def body(self) -> TextRequest: ...

    @property
    def default_len(self) -> int | None:
        """Tokens to generate where the client did not say; None: as many as there is room for."""

    def encode(self) -> Sequence[tuple[int, ...]]:
        """The prompts' tokens. Called off the event loop. Raises RequestRefused."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream says of a choice before its first token; None: nothing."""

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A piece of a choice as a stream says it."""

    def choice(self, whole: Piece) -> dict[str, Any]:
        """A choice all at once."""
