"""How long an engine's steps take, and what on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motet.engine.engine import Engine
from motet.engine.request import Event, Finished, Request
from motet.engine.stage_clock import Stage, StageClock
from motet.errors import MotetError

_LOADING_S = 0.001
"""How long to wait before asking again for an adapter that is being loaded."""


@dataclass
class StepTimes:
    """Steps of one kind, added up."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    seconds: float = 0.0
    stages: Mapping[Stage, float] = field(default_factory=dict)  # seconds; Python has the rest

    def add(self, other: StepTimes) -> None:
        self.num_steps += other.num_steps
        self.num_prompt_tokens += other.num_prompt_tokens
        self.num_generated_tokens += other.num_generated_tokens
        self.seconds += other.seconds
        both = {**self.stages, **other.stages}
        self.stages = {
            stage: self.stages.get(stage, 0.0) + other.stages.get(stage, 0.0) for stage in both
        }


@dataclass
class LoadTimes:
    """The steps of a load: those with prompt tokens in them, which also generate for requests
    that are further on, and those that only generate."""

    prompt: StepTimes = field(default_factory=StepTimes)
    decode: StepTimes = field(default_factory=StepTimes)


def run_requests(engine: Engine, clock: StageClock, requests: Sequence[Request]) -> LoadTimes:
    """Submit all at once and step until all have ended; inside `engine.on_this_thread()`.

    clock: the one the engine's parts were made with. Raises MotetError for a request that the
    engine refuses or that ends before its last token.
    """
    times = LoadTimes()
    ended: list[Finished] = []

    def deliver(event: Event) -> None:
        if isinstance(event, Finished):
            ended.append(event)

    for request in requests:
        engine.submit(request, deliver)
    while len(ended) < len(requests):
        step = _step(engine, clock)
        if step is None:
            time.sleep(_LOADING_S)
        else:
            (times.prompt if step.num_prompt_tokens else times.decode).add(step)
    for event in ended:
        if event.reason != "length":
            raise MotetError(f"A request ended in {event.reason}: {event.message}.")
    return times


def _step(engine: Engine, clock: StageClock) -> StepTimes | None:
    """None if there was nothing to compute: the adapters wanted are still being loaded."""
    before = engine.stats()
    clock.take()
    started = clock.now()
    if not engine.step():
        return None
    seconds = clock.now() - started
    after = engine.stats()
    return StepTimes(
        num_steps=1,
        num_prompt_tokens=after.num_prompt_tokens - before.num_prompt_tokens,
        num_generated_tokens=after.num_generated_tokens - before.num_generated_tokens,
        seconds=seconds,
        stages=clock.take(),
    )
