"""Block sizes, warps and stages as data: a table for each GPU, keyed by the shape of the work.

A table is a JSON file. One made on this machine (`motet tune`) is used before one that comes with
the package, and where there is neither a formula makes it (`tuning_formula.py`). The sizes that
decide in which order a row is summed stand once in a table, for every number of rows: otherwise a
row's bits would depend on its neighbours. `TuningTable.parse` refuses a table that breaks this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, TypeVar

# A size that decides the order of a sum.
ORDER = {"order": True}


@dataclass(frozen=True)
class LinearConfig:
    """The NF4 tile kernel: a program makes block_rows x block_outputs of y."""

    block_rows: int
    block_outputs: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class GemvConfig:
    """The NF4 product of a few rows: a program makes block_outputs of y."""

    block_outputs: int
    num_warps: int


@dataclass(frozen=True)
class LowRankConfig:
    """Shrink u = A x in blocks of block_inputs, K cut every split_len inputs; expand B u.

    A K of more than max_splits * split_len is cut into max_splits equal parts.
    """

    block_inputs: int = field(metadata=ORDER)
    split_len: int = field(metadata=ORDER)
    max_splits: int = field(metadata=ORDER)
    block_ranks: int = field(metadata=ORDER)
    block_outputs: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class AttentionConfig:
    """Queries of one key head together, keys block_keys at a time, cut every split_len keys at
    least (attention_plan.py: splits grow with the number of keys)."""

    block_queries: int  # tokens times query heads of a key head
    block_keys: int = field(metadata=ORDER)
    split_len: int = field(metadata=ORDER)
    num_warps: int
    num_stages: int


Config = TypeVar("Config", LinearConfig, GemvConfig, LowRankConfig, AttentionConfig)

# Sections of a table, and the sizes that each is keyed by.
SECTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "linear": (LinearConfig, ("rows", "outputs")),
    "gemv": (GemvConfig, ("outputs",)),
    "lowrank": (LowRankConfig, ("rows",)),
    "attention": (AttentionConfig, ("head_size",)),
}
HEADER = ("gpus", "architecture", "origin")


@dataclass(frozen=True)
class Entry(Generic[Config]):
    """config serves a shape none of whose sizes is over its limit; a size not named has none."""

    limits: Mapping[str, int]
    config: Config

    def serves(self, sizes: Mapping[str, int]) -> bool:
        return all(sizes[name] <= limit for name, limit in self.limits.items())


@dataclass(frozen=True)
class TuningTable:
    """Everything tuned for one GPU. The first entry of a section that serves a shape is taken.

    gpus: device names it holds for; none: any of the architecture. origin: "predicted: ..." or
    "measured: ...", with how, for people to read.
    """

    gpus: tuple[str, ...]
    architecture: str
    origin: str
    linears: tuple[Entry[LinearConfig], ...]
    gemvs: tuple[Entry[GemvConfig], ...]
    lowranks: tuple[Entry[LowRankConfig], ...]
    attentions: tuple[Entry[AttentionConfig], ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a shape without an entry, or a sum that depends on the rows."""
        if not self.origin.startswith(("predicted: ", "measured: ")):
            raise ValueError(f'origin must begin "predicted: " or "measured: ": {self.origin!r}')
        for section in SECTIONS:
            _check_section(section, self.entries(section))

    def linear(self, rows: int, outputs: int) -> LinearConfig:
        return _find(self.linears, {"rows": rows, "outputs": outputs})

    def gemv(self, outputs: int) -> GemvConfig:
        return _find(self.gemvs, {"outputs": outputs})

    def lowrank(self, rows: int) -> LowRankConfig:
        return _find(self.lowranks, {"rows": rows})

    def attention(self, head_size: int) -> AttentionConfig:
        """One for every step: the rows of a tile decide how threads share a sum over keys."""
        return _find(self.attentions, {"head_size": head_size})

    @property
    def attention_split_len(self) -> int:
        """Of every head size: a step is planned once for layers of any."""
        return self.attentions[0].config.split_len

    def entries(self, section: str) -> Sequence[Entry[Any]]:
        found: Sequence[Entry[Any]] = getattr(self, f"{section}s")
        return found

    def configs(self, section: str) -> Iterator[Any]:
        """The section's different configurations, once each: what there is to compile."""
        return iter(dict.fromkeys(entry.config for entry in self.entries(section)))

    @classmethod
    def parse(cls, text: str) -> TuningTable:
        """The table a JSON file states. Raises ValueError, saying where, if it is none."""
        try:
            stated = json.loads(text)
        except ValueError as error:
            raise ValueError(f"a tuning table must be JSON: {error}") from error
        if not isinstance(stated, dict) or set(stated) != {*HEADER, *SECTIONS}:
            raise ValueError(f"a tuning table has the keys {', '.join((*HEADER, *SECTIONS))}")
        gpus, architecture, origin = (stated[name] for name in HEADER)
        if not isinstance(gpus, list) or not all(isinstance(gpu, str) for gpu in gpus):
            raise ValueError("gpus must be a list of device names")
        if not isinstance(architecture, str) or not isinstance(origin, str):
            raise ValueError("architecture and origin must be text")
        sections = {f"{name}s": _parse_section(name, stated[name]) for name in SECTIONS}
        return cls(tuple(gpus), architecture, origin, **sections)

    def to_json(self) -> str:
        """The JSON that `parse` reads, an entry a line."""
        lines = [f'  "{name}": {json.dumps(getattr(self, name))}' for name in HEADER]
        for section in SECTIONS:
            rows = [
                json.dumps({f"max_{name}": limit for name, limit in entry.limits.items()}
                           | asdict(entry.config))
                for entry in self.entries(section)
            ]  # fmt: skip
            body = ",\n    ".join(rows)
            lines.append(f'  "{section}": [\n    {body}\n  ]')
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _find(entries: Sequence[Entry[Config]], sizes: Mapping[str, int]) -> Config:
    return next(entry.config for entry in entries if entry.serves(sizes))


def _check_section(section: str, entries: Sequence[Entry[Any]]) -> None:
    if not entries or entries[-1].limits:
        raise ValueError(f"{section}: the last entry must be without limits, to serve what is left")
    kind, _ = SECTIONS[section]
    for each in fields(kind):
        values = {getattr(entry.config, each.name) for entry in entries}
        if each.metadata.get("order") and len(values) > 1:
            raise ValueError(
                f"{section}: {each.name} decides the order of a sum and must be one number "
                f"for all shapes, not {sorted(values)}"
            )


def _parse_section(section: str, stated: object) -> tuple[Entry[Any], ...]:
    if not isinstance(stated, list):
        raise ValueError(f"{section} must be a list of entries")
    return tuple(_parse_entry(section, entry) for entry in stated)


def _parse_entry(section: str, stated: object) -> Entry[Any]:
    kind, sizes = SECTIONS[section]
    names = {each.name for each in fields(kind)}
    limits = {f"max_{size}": size for size in sizes}
    if not isinstance(stated, dict) or not names <= set(stated) <= names | set(limits):
        raise ValueError(
            f"an entry of {section} has {', '.join(sorted(names))}, and may have "
            f"{', '.join(limits)}; got {stated}"
        )
    for name, value in stated.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{section}: {name} must be a whole number from 1, got {value!r}")
        power = name not in limits and name not in ("num_stages", "max_splits")
        if power and value & (value - 1):
            raise ValueError(f"{section}: {name} must be a power of two, got {value}")
    return Entry(
        {size: stated[limit] for limit, size in limits.items() if limit in stated},
        kind(**{name: stated[name] for name in names}),
    )
