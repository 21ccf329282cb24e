"""What was measured, as it is kept in a JSON file."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.load import Answers, Load


@dataclass
class Outcome:
    """One system under one load."""

    system: str
    load: Load
    tokens_per_s: list[float] = field(default_factory=list)
    """Generated tokens per second of each round; empty if the load was refused."""
    refused: str | None = None
    """The system's own reason."""

    @property
    def median(self) -> float | None:
        return statistics.median(self.tokens_per_s) if self.tokens_per_s else None


@dataclass
class Results:
    machine: dict[str, str]
    systems: dict[str, str]
    """Versions and kernels, by the system's name, in the order of the columns."""
    base: str
    rank: int
    answers: Answers
    rounds: int
    streamed: bool
    outcomes: list[Outcome] = field(default_factory=list)

    def by_load(self) -> list[list[Outcome]]:
        """Outcomes of one load together, in the order they were measured."""
        groups: dict[Load, list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault(outcome.load, []).append(outcome)
        return list(groups.values())

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Results:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        outcomes = [
            Outcome(**{**outcome, "load": Load(**outcome["load"])}) for outcome in raw["outcomes"]
        ]
        return cls(**{**raw, "answers": Answers(**raw["answers"]), "outcomes": outcomes})
