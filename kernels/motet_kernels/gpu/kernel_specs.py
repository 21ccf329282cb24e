"""Every Triton kernel as it is launched, written down so that it can be compiled without a GPU.

A `KernelSpec` is one compilation: the types a launch hands over, its constants, its warps. What
reads the list compiles it for each architecture and looks at the machine code (`gpu/aot.py`), so a
kernel that is not in the list is not gated. `specs_<area>.py` hold the lists, beside the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# tile: multiplies blocks of rows with tensor cores, and must. Every other kind may do without.
# gemv: a few rows, no tensor cores. lowrank: adapters. attention, copy: as their names say.
Kind = Literal["tile", "gemv", "dequantize", "lowrank", "attention", "copy"]


@dataclass(frozen=True)
class KernelSpec:
    """One kernel with one set of constants, as a launch would have it compiled.

    arguments: Triton's type of every argument that is no constant, in any order, such as "*bf16",
    "*u8", "i32"; a constant 1 or None belongs among the constexprs.
    constexprs: the value of every constant.
    aligned: arguments whose address or value is a multiple of 16 in every launch: what the JIT
    finds out by itself and vector loads depend on.
    """

    name: str  # what differs from other specs of the kernel is in it: "nf4_tile bf16 rows=16"
    kernel: Any  # the @triton.jit function
    kind: Kind
    arguments: Mapping[str, str]
    constexprs: Mapping[str, Any]
    aligned: frozenset[str]
    num_warps: int
    num_stages: int
    # The argument that NF4 codes are read through; its loads are gated to 16 bytes. None: no codes.
    weight: str | None = None
    # Weights that a program decodes in one trip of its inner loop, BLOCK_N * 64 or so; 0: no gate.
    weights_per_trip: int = 0
    # Whether the inner loop decodes by byte permutes, where the architecture has them.
    prmt: bool = False
    # Backends it is compiled for: "cuda", "hip". A kernel with inline PTX names the first alone.
    backends: tuple[str, ...] = ("cuda", "hip")
    options: Mapping[str, Any] = field(default_factory=dict)  # further options of the compiler

    def __post_init__(self) -> None:
        """Raises ValueError unless every argument of the kernel is typed or constant, once."""
        names = list(self.kernel.arg_names)
        given = [*self.arguments, *self.constexprs]
        if sorted(names) != sorted(given):
            wrong = sorted(set(names) ^ set(given)) or "one given twice"
            raise ValueError(f"spec {self.name!r}: arguments do not match the kernel's: {wrong}")
        unknown = (self.aligned | ({self.weight} if self.weight else set())) - set(self.arguments)
        if unknown:
            raise ValueError(f"spec {self.name!r}: no such arguments: {sorted(unknown)}")

    def signature(self) -> dict[str, str]:
        """Argument -> type in the kernel's order, as ASTSource takes it."""
        return {name: self.arguments.get(name, "constexpr") for name in self.kernel.arg_names}

    def attributes(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """What ASTSource is told of the arguments' alignment, by position."""
        positions = {name: at for at, name in enumerate(self.kernel.arg_names)}
        return {(positions[name],): [["tt.divisibility", 16]] for name in sorted(self.aligned)}
