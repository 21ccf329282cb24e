"""A real engine in the test's own process, and what its requests came to."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from motet.engine.batch import Batch
from motet.engine.model import PagedModel
from motet.engine.request import Event, Finished, Request, SamplingParams, Token
from motet.engine.runtime import Runtime, open_runtime
from motet.settings import Settings
from motet_adapters import Adapter
from torch import Tensor

TIMEOUT_S = 120.0

_request_numbers = count()


@dataclass
class Outcome:
    """The events of one request, in order."""

    events: list[Event] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def deliver(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished):
            self.ended.set()

    def wait(self) -> Outcome:
        assert self.ended.wait(TIMEOUT_S), "the request did not end"
        return self

    @property
    def token_ids(self) -> list[int]:
        return [event.token_id for event in self.events if isinstance(event, Token)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    @property
    def finished(self) -> Finished:
        finished = [event for event in self.events if isinstance(event, Finished)]
        assert len(finished) == 1, "a request ends in exactly one terminal event"
        assert self.events[-1] is finished[0]
        return finished[0]


@contextmanager
def served(base: Path | None, data_dir: Path, **settings: Any) -> Iterator[Runtime]:
    """A started engine on `base` with small budgets; closed afterwards."""
    small = {
        "kv_cache_bytes": 64 << 20,
        "adapter_device_bytes": 64 << 20,
        "max_num_seqs": 40,
        "chunk_len": 16,
        "max_batch_tokens": 64,
        "dtype": "float32",
        "threads": 1,  # tiny products are slower on two
    }
    chosen = Settings(base=str(base) if base else None, data_dir=data_dir, **(small | settings))
    runtime = open_runtime(chosen, lambda _doing, _done: None)
    try:
        runtime.engine.start()
        yield runtime
    finally:
        runtime.close()


def request(
    prompt: Sequence[int],
    adapter: Adapter | None = None,
    *,
    max_tokens: int = 16,
    temperature: float = 0.0,
    **params: Any,
) -> Request:
    return Request(
        id=f"test-{next(_request_numbers)}",
        prompt=tuple(prompt),
        params=SamplingParams(max_tokens=max_tokens, temperature=temperature, **params),
        adapter=adapter,
        tenant=adapter.tenant if adapter else "test",
    )


def again(request: Request) -> Request:
    """The same request under a new id."""
    return replace(request, id=f"test-{next(_request_numbers)}")


def submit(runtime: Runtime, requests: Iterable[Request]) -> list[Outcome]:
    outcomes = []
    for item in requests:
        outcomes.append(Outcome())
        runtime.engine.submit(item, outcomes[-1].deliver)
    return outcomes


def run(runtime: Runtime, requests: Iterable[Request]) -> list[Outcome]:
    """Submit all at once and wait for all."""
    return [outcome.wait() for outcome in submit(runtime, requests)]


def upload(runtime: Runtime, tenant: str, name: str, directory: Path) -> Adapter:
    """Publish a PEFT directory's two files."""
    with runtime.store.stage() as staging:
        for filename in ("adapter_config.json", "adapter_model.safetensors"):
            staging.write(filename, (directory / filename).read_bytes())
        return runtime.store.put(tenant, name, staging)


class LogitTap:
    """Keeps every logit row the engine's model computes, by request id, while it is open.

    gate: no forward pass begins before it is set.
    """

    def __init__(self, runtime: Runtime, gate: threading.Event | None = None) -> None:
        self._gate = gate
        self._model: PagedModel = runtime.engine._model
        self._forward = self._model.forward
        self.logits: dict[str, list[Tensor]] = {}
        self.batches: list[Batch] = []

    def __enter__(self) -> LogitTap:
        self._model.forward = self._tapped  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self._model.forward = self._forward  # type: ignore[method-assign]

    def of(self, request: Request) -> Tensor:
        """[generated tokens, V] float32."""
        return torch.stack(self.logits[request.id])

    def _tapped(self, batch: Batch) -> Tensor:
        assert self._gate is None or self._gate.wait(TIMEOUT_S)
        logits = self._forward(batch)
        self.batches.append(batch)
        for row, values in zip(batch.sampling_rows, logits, strict=True):
            self.logits.setdefault(row.sequence.request.id, []).append(values.float().clone())
        return logits
