"""A request while the engine works on it. Owned by the engine thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from motet_adapters import Slot

from motet.engine.occurrence import last_occurrence
from motet.engine.prefix_cache import SharedBlocks, Stretch
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
    """Tokens and how much of them is in the KV cache; a step advances the second to the first.

    All counts and bounds are of positions: the adapter's virtual tokens, if it has any, stand at
    [0, num_virtual), and the prompt's first token behind them.
    `arrival` orders sequences for good: a preempted one keeps its place.
    """

    request: Request
    arrival: int
    deliver: Callable[[Event], None]
    decoder: Decoder
    stops: StopStrings
    counts: TokenCounts
    tokens: list[int] = field(init=False)
    num_virtual: int = field(init=False)
    prompt_end: int = field(init=False)
    """The position behind the prompt."""
    adapted_from: int = field(init=False)
    """Position from which on the request's adapter is active; aLoRA's is not before."""
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    shared: list[SharedBlocks] = field(default_factory=list)  # the first of `blocks`, in order
    stretches: tuple[Stretch, ...] | None = None  # of the prompt; None: not asked for yet
    num_cached: int | None = None  # prompt tokens found computed; None: not admitted yet
    slot: Slot | None = None
    num_passes_over: int = 0
    ran_on: str | None = None  # digest in its slot at the last step; None: the base, or no step

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        adapter = self.request.adapter
        self.num_virtual = adapter.num_virtual_tokens if adapter else 0
        self.prompt_end = self.num_virtual + self.prompt_len
        self.adapted_from = 0
        if adapter and adapter.invocation_tokens:
            start = last_occurrence(adapter.invocation_tokens, self.request.prompt)
            never = self.prompt_end + self.request.params.max_tokens
            self.adapted_from = never if start is None else self.num_virtual + start

    @property
    def prompt_len(self) -> int:
        return len(self.request.prompt)

    @property
    def length(self) -> int:
        """Positions of all tokens there are, virtual ones included."""
        return self.num_virtual + len(self.tokens)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    def ids(self, start: int, stop: int) -> list[int]:
        """The tokens at positions [start, stop); 0 for a virtual one, which has no id."""
        num_virtual = max(min(stop, self.num_virtual) - start, 0)
        first = start + num_virtual - self.num_virtual
        return [0] * num_virtual + self.tokens[first : stop - self.num_virtual]

    def next_counts(self, chunk_len: int, budget: int) -> tuple[int, ...]:
        """The rows this sequence could run now, as token counts, within `budget` tokens.

        Prompt tokens go in chunks that end on multiples of `chunk_len`, and before the prompt's
        first token and the adapter's; each generated token is a row of its own, also when it is
        computed again after a preemption. So the shape a token is computed in depends on its
        sequence alone and never on the neighbours' share of the budget: that is what makes a row's
        bits repeatable.
        """
        counts: list[int] = []
        position, length = self.num_computed, self.length
        while position < length:
            count = 1
            if position < self.prompt_end:
                boundary = (position // chunk_len + 1) * chunk_len
                ends = (self.num_virtual, self.adapted_from, self.prompt_end)
                count = min(boundary, *(end for end in ends if end > position)) - position
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
                cached_len=self.num_cached or 0,
            )
        )
