"""A request while the engine works on it. Owned by the engine thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from motet_adapters import Slot

from motet.engine.request import Event, Finished, FinishReason, Request, Token
from motet.engine.sampler import Sampled, TokenCounts
from motet.engine.stops import StopStrings


class Decoder(Protocol):
    """Turns one sequence's tokens into text as they come."""

    def push(self, token_id: int) -> str:
        """The text this token completes; "" while its bytes are not a character yet."""
        ...

    def flush(self) -> str:
        """Whatever was still held back."""
        ...


@dataclass(eq=False)
class Sequence:
    """Tokens and how many of them are in the KV cache; a step advances the second to the first.

    `arrival` orders sequences for good: a preempted one keeps its place.
    """

    request: Request
    arrival: int
    deliver: Callable[[Event], None]
    decoder: Decoder
    stops: StopStrings
    counts: TokenCounts
    tokens: list[int] = field(init=False)
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    slot: Slot | None = None
    num_passes_over: int = 0
    ran_on: str | None = None  # digest in the slot of the last step; None: the base, or no step

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def prompt_len(self) -> int:
        return len(self.request.prompt)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    def next_counts(self, chunk_len: int, budget: int) -> tuple[int, ...]:
        """The rows this sequence could run now, as token counts, within `budget` tokens.

        Prompt tokens go in chunks that end on multiples of `chunk_len`; each generated token is
        a row of its own, also when it is computed again after a preemption. So the shape a token
        is computed in depends on its sequence alone and never on the neighbours' share of the
        budget: that is what makes a row's bits repeatable.
        """
        counts: list[int] = []
        position = self.num_computed
        while position < len(self.tokens):
            count = 1
            if position < self.prompt_len:
                boundary = (position // chunk_len + 1) * chunk_len
                count = min(boundary, self.prompt_len) - position
            if count > budget:
                break
            counts.append(count)
            budget -= count
            position += count
        return tuple(counts)

    def take(self, sampled: Sampled, ends: frozenset[int]) -> FinishReason | None:
        """Append a sampled token and deliver it; the reason to finish, if it is the last.

        `ends` are the model's end-of-sequence ids. A stop token is counted and not shown. Before
        `min_tokens` nothing stops a sequence, stop strings included.
        """
        params = self.request.params
        token_id = sampled.token_id
        self.tokens.append(token_id)
        self.counts.add(token_id)
        may_stop = self.num_generated >= params.min_tokens
        is_end = token_id in ends and not params.ignore_eos
        if may_stop and (is_end or token_id in params.stop_token_ids):
            self.deliver(Token(self.request.id, token_id, "", sampled.logprob))
            return "stop"
        text, stopped = self.decoder.push(token_id), False
        if may_stop:
            text, stopped = self.stops.push(text)
        self.deliver(Token(self.request.id, token_id, text, sampled.logprob))
        if stopped:
            return "stop"
        return "length" if self.num_generated >= params.max_tokens else None

    def finish(self, reason: FinishReason, message: str | None = None) -> None:
        """Deliver the one terminal event, with whatever text was still held back."""
        held_back = ""
        if reason in ("stop", "length") and not self.stops.stopped:
            emitted, stopped = self.stops.push(self.decoder.flush())
            held_back = emitted if stopped else emitted + self.stops.flush()
        self.deliver(
            Finished(
                request_id=self.request.id,
                reason=reason,
                text=held_back,
                prompt_len=self.prompt_len,
                completion_len=self.num_generated,
                message=message,
                adapter_digest=self.ran_on,
            )
        )
