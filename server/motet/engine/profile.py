"""Where a step's time goes under a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from motet_adapters import Adapter

from motet.engine.load import Load
from motet.engine.runtime import Runtime
from motet.engine.stage_clock import Stage, StageClock
from motet.engine.step_times import LoadTimes, StepTimes, run_requests
from motet.errors import MotetError

Part = Stage | Literal["python"]
"""python: all that is in no stage: scheduling, laying out the batch, transformers' own modules,
tokens to text."""


@dataclass(frozen=True)
class Breakdown:
    """The mean step of one kind."""

    num_steps: int
    num_prompt_tokens: int  # of all these steps
    num_generated_tokens: int
    step_ms: float
    parts_ms: Mapping[Part, float]  # adds up to step_ms

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens and generated ones."""
        num_tokens = self.num_prompt_tokens + self.num_generated_tokens
        return num_tokens / (self.num_steps * self.step_ms / 1e3)

    def percent(self, part: Part) -> float:
        return 100 * self.parts_ms[part] / self.step_ms


@dataclass(frozen=True)
class Profile:
    prompt: Breakdown  # steps with prompt tokens in them; they generate too, where requests wait
    decode: Breakdown  # steps that only generate

    @property
    def generated_per_s(self) -> float:
        """Generated tokens a second over the whole load, prompts included."""
        both = (self.prompt, self.decode)
        seconds = sum(kind.num_steps * kind.step_ms / 1e3 for kind in both)
        return sum(kind.num_generated_tokens for kind in both) / seconds


def profile(
    runtime: Runtime, clock: StageClock, load: Load, adapters: Sequence[Adapter], rounds: int
) -> Profile:
    """Run the load `rounds` times after one that counts for nothing; the fastest is shown.

    B (A x) is added where W x is at hand, inside the linears. So each round also asks the same of
    the base alone, and what the linears take more with adapters counts as the adapters'.

    runtime: made with `clock`, its engine not started. Raises MotetError for a load the engine
    refuses, and where the adapters do not stay on the device together.
    """
    engine = runtime.engine
    tenant = adapters[0].tenant if adapters else "profile"
    requests = load.requests(adapters, engine.vocab_size, tenant)
    base_requests = load.requests((), engine.vocab_size, tenant)
    adapted: list[LoadTimes] = []
    base: list[LoadTimes] = []
    with engine.on_this_thread():
        run_requests(engine, clock, requests)
        num_loads = runtime.arena.stats().num_loads
        for _ in range(rounds):
            adapted.append(run_requests(engine, clock, requests))
            if adapters:
                base.append(run_requests(engine, clock, base_requests))
    if runtime.arena.stats().num_loads != num_loads:
        raise MotetError(
            f"The {len(adapters)} adapters do not fit on the device together: raise "
            "--adapter-device-bytes and --max-adapter-slots, or use fewer or smaller ones."
        )
    fastest = min(adapted, key=_seconds)
    without = min(base, key=_seconds, default=None)
    return Profile(
        breakdown(fastest.prompt, without.prompt if without else None),
        breakdown(fastest.decode, without.decode if without else None),
    )


def _seconds(times: LoadTimes) -> float:
    return times.prompt.seconds + times.decode.seconds


def breakdown(times: StepTimes, base: StepTimes | None) -> Breakdown:
    """The mean of these steps. base: the same steps without adapters; None: they have none."""
    step_ms = _per_step(times.seconds, times)
    parts: dict[Part, float] = {
        stage: _per_step(times.stages.get(stage, 0.0), times) for stage in get_args(Stage)
    }
    parts["python"] = step_ms - sum(parts.values())
    if base is not None:
        # never less than nothing, though two runs may differ by more than small adapters cost
        added = max(0.0, parts["linears"] - _per_step(base.stages.get("linears", 0.0), base))
        parts["linears"] -= added
        parts["adapters"] += added
    return Breakdown(
        times.num_steps, times.num_prompt_tokens, times.num_generated_tokens, step_ms, parts
    )


def _per_step(seconds: float, times: StepTimes) -> float:
    return 1e3 * seconds / times.num_steps
