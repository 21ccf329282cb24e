"""What crosses the engine's edge: a `Request` goes in, `Event`s come out.

All values are frozen and checked when they are made, so nothing inside the engine has to
check them again. What depends on the model (token ids below the vocabulary size, the
longest prompt) is checked by the engine at submission.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from motet_adapters import Adapter

MAX_LOGPROBS = 20
"""The most alternatives one token's `LogProb` may carry."""

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them says nothing but "take the best"."""

FinishReason = Literal["stop", "length", "cancelled", "error"]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True)
class SamplingParams:
    """How one request's tokens are chosen and when it ends.

    The defaults choose from the model's own distribution. Raises ValueError, with the
    allowed range in the message, for a value out of range.
    """

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    seed: int | None = None
    """None until `seeded()` has drawn one."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    """None is off, 0 is the chosen token alone, k adds the k most probable tokens."""

    def __post_init__(self) -> None:
        # A private copy behind a read-only view: the caller's dict may change under us.
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))
        self._check_lengths()
        self._check_distribution()
        self._check_penalties()
        self._check_stops()

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def penalised(self) -> bool:
        """Whether tokens that have been seen are treated differently."""
        off = (1.0, 0.0, 0.0)
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != off

    def seeded(self, choice: int = 0) -> SamplingParams:
        """These parameters with a definite seed, for choice number `choice` of a request.

        A given seed becomes `seed + choice` (wrapping within 64 signed bits), so that the
        choices of one request differ and each can be had again; None becomes a fresh random
        seed. Call it once, at submission: whatever is recomputed later uses the same seed.
        """
        if self.seed is None:
            return replace(self, seed=secrets.randbits(63))
        return replace(self, seed=(self.seed + choice + 2**63) % 2**64 - 2**63)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError if a token id is named that the model does not have."""
        named = (*self.logit_bias, *self.stop_token_ids)
        _require(
            max(named, default=0) < vocab_size,
            f"logit_bias or stop_token_ids name token id {max(named, default=0)}; "
            f"this model's ids end at {vocab_size - 1}",
        )

    def _check_lengths(self) -> None:
        _require(self.max_tokens >= 1, f"max_tokens must be at least 1, got {self.max_tokens}")
        _require(
            0 <= self.min_tokens <= self.max_tokens,
            f"min_tokens must be between 0 and max_tokens ({self.max_tokens}), "
            f"got {self.min_tokens}",
        )
        _require(
            self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
            f"logprobs must be between 0 and {MAX_LOGPROBS}, or left out, got {self.logprobs}",
        )

    def _check_distribution(self) -> None:
        _require(
            0 <= self.temperature < math.inf,
            f"temperature must be 0 (greedy) or a positive number, got {self.temperature}",
        )
        _require(
            0 < self.top_p <= 1,
            f"top_p must be above 0 and at most 1, got {self.top_p}; "
            "for the most probable token set temperature=0",
        )
        _require(self.top_k >= 0, f"top_k must be 0 (off) or positive, got {self.top_k}")
        _require(0 <= self.min_p <= 1, f"min_p must be between 0 and 1, got {self.min_p}")
        _require(
            self.seed is None or -(2**63) <= self.seed < 2**63,
            f"seed must fit in 64 signed bits, got {self.seed}",
        )

    def _check_penalties(self) -> None:
        _require(
            0.01 <= self.repetition_penalty <= 100,
            "repetition_penalty must be between 0.01 and 100 (1 is off), "
            f"got {self.repetition_penalty}",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-2 <= value <= 2, f"{name} must be between -2 and 2, got {value}")
        for token_id, bias in self.logit_bias.items():
            _require(
                token_id >= 0,
                f"logit_bias keys must be token ids of 0 or more, got {token_id}",
            )
            _require(
                -100 <= bias <= 100,
                f"logit_bias values must be between -100 and 100, got {bias} for token {token_id}",
            )

    def _check_stops(self) -> None:
        _require(
            not isinstance(self.stop, str),
            "stop must be a tuple of strings, not one string; write (text,)",
        )
        _require(all(self.stop), "stop must hold no empty string; leave it out")
        _require(
            all(token_id >= 0 for token_id in self.stop_token_ids),
            f"stop_token_ids must be token ids of 0 or more, got {self.stop_token_ids}",
        )


@dataclass(frozen=True)
class Request:
    """One prompt to be continued on one adapter (None: on the base model)."""

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    adapter: Adapter | None
    tenant: str

    def __post_init__(self) -> None:
        _require(bool(self.id), "a request needs an id; give it any unique string")
        _require(bool(self.tenant), f"request {self.id} needs the tenant it is served for")
        _require(
            bool(self.prompt),
            f"request {self.id} has an empty prompt; send at least one token",
        )
        _require(
            min(self.prompt, default=0) >= 0,
            f"request {self.id} has a negative token id in its prompt; token ids are 0 or more",
        )
        # The edge leases by tenant and cannot get here with another's adapter. If it ever
        # does, refusing is the only right answer.
        _require(
            self.adapter is None or self.adapter.tenant == self.tenant,
            f"request {self.id} names an adapter of another tenant; "
            "lease the adapter for the request's own tenant",
        )


@dataclass(frozen=True)
class LogProb:
    """Log-probabilities (natural log) of one generated token.

    They are of the model's own distribution: log-softmax in float32 of the logits before
    bias, penalties, temperature or any truncation.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, log-probability) of the most probable tokens, best first, ties by lower id."""


@dataclass(frozen=True)
class Token:
    """One generated token."""

    request_id: str
    token_id: int
    text: str
    """What this token adds to the text; "" while bytes or a possible stop string are held back."""
    logprob: LogProb | None


@dataclass(frozen=True)
class Finished:
    """The last event of a request; every accepted request has exactly one."""

    request_id: str
    reason: FinishReason
    text: str
    """Text that was held back and is now released."""
    prompt_len: int
    completion_len: int
    message: str | None
    """What went wrong, for reason "error"."""
    adapter_digest: str | None
    """The adapter in the request's slot at its last step; None is the base model."""
    cached_len: int = 0
    """Of `prompt_len`, tokens whose keys and values were found and not computed."""


Event = Token | Finished
