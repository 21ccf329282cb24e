"""A running engine with adapters of many families, and what each of them must answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet_adapters import Adapter
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.family_cases import INVOCATION
from tests.support.peft_adapters import logits
from tests.support.serving import LogitTap, Outcome, request, run, submit

NUM_TOKENS = 6
TOLERANCE = 1e-3  # relative to the largest logit


@dataclass(frozen=True)
class Stage:
    """By name: what each adapter computes, the adapter, and where its two files are."""

    runtime: Runtime
    plain: PreTrainedModel
    oracles: Mapping[str, nn.Module]
    adapters: Mapping[str, Adapter]
    directories: Mapping[str, Path]

    def ask(self, name: str | None) -> Request:
        """The same each time: a prompt of its own length with aLoRA's invocation in it."""
        draw = torch.Generator().manual_seed(sum((name or "base").encode()))
        length = int(torch.randint(6, 40, (), generator=draw))
        prompt = torch.randint(13, 250, (length,), generator=draw).tolist()
        prompt[3:5] = INVOCATION
        adapter = None if name is None else self.adapters[name]
        return request(prompt, adapter, max_tokens=NUM_TOKENS, ignore_eos=True)

    def expected(self, name: str | None, item: Request, token_ids: list[int]) -> Tensor:
        """[generated tokens, V]"""
        oracle = self.plain if name is None else self.oracles[name]
        everything = logits(oracle, [*item.prompt, *token_ids[:-1]])
        return everything[-NUM_TOKENS:]

    def require_right(
        self, name: str | None, item: Request, outcome: Outcome, served: Tensor
    ) -> None:
        """Raises AssertionError unless the served logits are the oracle's."""
        expected = self.expected(name, item, outcome.token_ids)
        difference = (served - expected).abs().max() / expected.abs().max()
        assert difference <= TOLERANCE, f"{name}: {difference:.2e}"

    def require_right_alone(self, name: str) -> None:
        """And not what the base answers."""
        item = self.ask(name)
        with LogitTap(self.runtime) as tap:
            (outcome,) = run(self.runtime, [item])
        self.require_right(name, item, outcome, tap.of(item))
        base = self.expected(None, item, outcome.token_ids)
        change = (tap.of(item) - base).abs().max() / base.abs().max()
        assert change > 10 * TOLERANCE, f"{name} hardly changes anything"
        assert outcome.finished.adapter_digest == self.adapters[name].digest

    def require_right_together(self, everyone: Sequence[str | None]) -> None:
        """All in the same forward passes, with the bits that each has alone."""
        alone = {}
        for name in everyone:
            item = self.ask(name)
            with LogitTap(self.runtime) as tap:
                run(self.runtime, [item])
            alone[name] = tap.of(item)
        items, gate = [self.ask(name) for name in everyone], threading.Event()
        with LogitTap(self.runtime, gate) as tap:
            waiting = submit(self.runtime, items)
            gate.set()
            outcomes = [outcome.wait() for outcome in waiting]
        # Each in a pass of its own would be right too, and prove nothing.
        assert max(len(batch.rows) for batch in tap.batches) == len(everyone)
        for name, item, outcome in zip(everyone, items, outcomes, strict=True):
            self.require_right(name, item, outcome, tap.of(item))
            assert torch.equal(tap.of(item), alone[name]), f"{name} felt its neighbours"
