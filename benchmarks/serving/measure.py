"""Rounds that alternate between the systems."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.load import Answers, Load, random_prompts
from benchmarks.serving.results import Outcome
from benchmarks.serving.system import Batch, Refused, System

_WARM_UP_TOKENS = 2


def measure(systems: Sequence[System], load: Load, answers: Answers, rounds: int) -> list[Outcome]:
    """One outcome for each system, in their order."""
    outcomes = [Outcome(system.name, load) for system in systems]
    for turn in range(rounds):
        for system, outcome in zip(systems, outcomes, strict=True):
            if outcome.refused is None:
                _round(system, outcome, answers, turn)
    return outcomes


def _round(system: System, outcome: Outcome, answers: Answers, turn: int) -> None:
    """All systems get the same prompts in a round, and other ones in the next."""
    load = outcome.load
    prompts = random_prompts(2 * load.num_requests, answers.prompt_len, f"{load}, round {turn}")
    first, second = prompts[: load.num_requests], prompts[load.num_requests :]
    try:
        # A short one first: it brings adapters and weights back in after the others' turns.
        system.run(Batch(first, load.adapters(), _WARM_UP_TOKENS))
        run = system.run(Batch(second, load.adapters(), answers.num_tokens))
    except Refused as refusal:
        outcome.refused = str(refusal)
    else:
        outcome.tokens_per_s.append(round(run.num_tokens / run.seconds, 2))
