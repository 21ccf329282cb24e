"""A Dockerfile, read far enough to say things about its last stage."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    name: str
    value: str


@dataclass(frozen=True)
class Dockerfile:
    instructions: tuple[Instruction, ...]

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        kept = [line for line in path.read_text().splitlines() if not re.match(r"\s*(#|$)", line)]
        logical = re.sub(r"\\\n\s*", "", "\n".join(kept)).splitlines()
        return cls(tuple(Instruction(*line.split(maxsplit=1)) for line in logical))

    @property
    def last_stage(self) -> tuple[Instruction, ...]:
        start = max(i for i, each in enumerate(self.instructions) if each.name == "FROM")
        return self.instructions[start:]

    def last(self, name: str) -> str:
        """What the image that comes out has for `name`."""
        return [each.value for each in self.last_stage if each.name == name][-1]

    def words(self, name: str) -> list[str]:
        """A command in its exec form."""
        words: list[str] = json.loads(self.last(name))
        return words

    @property
    def environment(self) -> dict[str, str]:
        pairs = [
            pair.partition("=")
            for each in self.last_stage
            if each.name == "ENV"
            for pair in shlex.split(each.value)
        ]
        return {name: value for name, _, value in pairs}

    @property
    def copied_from_context(self) -> set[str]:
        """Sources of COPY that are no other stage's."""
        lines = [each.value.split() for each in self.instructions if each.name == "COPY"]
        return {source for line in lines if not line[0].startswith("--") for source in line[:-1]}
