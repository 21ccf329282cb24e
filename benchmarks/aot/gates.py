"""What a compiled kernel must not be. Each gate says in a sentence what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from motet_kernels.gpu.architectures import Architecture
from motet_kernels.gpu.kernel_specs import KernelSpec

from benchmarks.aot.figures import Figures

WEIGHT_LOAD_BYTES = 16
INSTRUCTIONS_PER_WEIGHT = {"sm_90": 9.0}


class Compiled(NamedTuple):
    spec: KernelSpec
    architecture: Architecture
    figures: Figures

    @property
    def instructions_per_weight(self) -> float | None:
        """None where the spec decodes no weights in a loop."""
        if not self.spec.weights_per_trip:
            return None
        threads = self.spec.num_warps * self.architecture.lanes
        return self.figures.instructions_per_weight(threads, self.spec.weights_per_trip)


def violations(compiled: Compiled) -> Iterator[str]:
    """A sentence for each gate that one compilation does not pass."""
    spec, architecture, found = compiled
    if found.spills:
        yield f"{found.spills} spills of registers"
    if found.shared_bytes > architecture.shared_bytes:
        yield (
            f"{found.shared_bytes} bytes of shared memory, over the {architecture.shared_bytes} "
            f"of {architecture.name}"
        )
    if spec.weight and not found.weight_loads:
        yield f"no load through {spec.weight!r} was found, so its width is unknown"
    if any(width < WEIGHT_LOAD_BYTES for width in found.weight_loads):
        widths = ", ".join(map(str, sorted(found.weight_loads)))
        yield f"weights are loaded {widths} bytes at a time, not {WEIGHT_LOAD_BYTES}"
    if spec.kind == "tile" and not found.tensor:
        yield "a tile kernel without a tensor-core instruction"
    limit = INSTRUCTIONS_PER_WEIGHT.get(architecture.name)
    per_weight = compiled.instructions_per_weight
    if spec.prmt and limit is not None:
        if per_weight is None:
            yield "a loop of byte permutes whose weights the spec does not count"
        elif per_weight > limit:
            yield f"{per_weight:.1f} instructions per weight, over {limit:.0f}"


def mixed_instructions(compiled: Iterable[Compiled]) -> Iterator[str]:
    """A sentence for each kernel that multiplies with other instructions in one of its tile sizes.

    The number of a step's rows chooses the tile size, and must not choose how a row is summed.
    """
    found: dict[tuple[str, str, str], set[frozenset[str]]] = {}
    for spec, architecture, figures in compiled:
        if spec.kind == "tile":
            types = ",".join(sorted(set(spec.arguments.values())))
            key = (architecture.name, spec.kernel.__name__, types)
            opcodes = frozenset(op for op in figures.inner.opcodes if op in figures.tensor)
            found.setdefault(key, set()).add(opcodes)
    for (architecture_name, kernel, types), sets in found.items():
        if len(sets) > 1:
            names = "; ".join(sorted(", ".join(sorted(each)) for each in sets))
            yield f"{architecture_name} {kernel} ({types}) sums in different ways: {names}"
