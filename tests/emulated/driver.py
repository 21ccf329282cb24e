"""An AMD GPU for Triton whose memory is this process's: tinygrad's emulator runs the kernels.

`kernel[grid](...)` on CPU tensors compiles for the architecture as it would on a machine that has
one, and runs that machine code, instruction by instruction. So the launches of `GpuOps` are tested
as they stand, in bf16 too.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from motet_kernels.gpu.architectures import Architecture
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from tests.emulated.code_object import CodeObject

MAX_THREADS = 1024
FORMATS = {"i1": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I",
           "i64": "q", "u64": "Q", "fp32": "f", "fp64": "d"}  # fmt: skip


class EmulatedDriver(DriverBase):
    """Triton's driver for one architecture.

    run_asm: the emulator's. launches: how often each kernel ran; seconds: how long they took.
    """

    def __init__(self, architecture: Architecture, run_asm: Callable[..., int]) -> None:
        self.architecture = architecture
        self.run_asm = run_asm
        self.launches: Counter[str] = Counter()
        self.seconds = 0.0

    @property
    def utils(self) -> EmulatedDriver:
        return self

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("hip", self.architecture.target, self.architecture.lanes)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError("emulated kernels run on CPU tensors")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing is timed on an emulator")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError("emulated kernels are launched without C++")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.architecture.shared_bytes}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, ...]:
        code = CodeObject.load(binary)
        return code, (name, code), 0, 0, MAX_THREADS

    def unload_module(self, module: CodeObject) -> None:
        """Its memory goes with it."""

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        types = [source.signature[name] for name in source.fn.arg_names]

        def launch(gx: int, gy: int, gz: int, stream: int, function: Any, *others: Any) -> None:
            values = others[4:]  # after the packed metadata, the launch metadata and two hooks
            arguments = [pair for pair in zip(types, values, strict=True) if pair[0] != "constexpr"]
            self._run(function, (gx, gy, gz), metadata, arguments)

        return launch

    def _run(
        self,
        function: tuple[str, CodeObject],
        grid: tuple[int, int, int],
        metadata: Any,
        arguments: list[tuple[str, Any]],
    ) -> None:
        name, code = function
        block = ctypes.create_string_buffer(code.arguments_size + 256)
        at = 0
        # two pointers that Triton adds follow: scratch memory and profiling, neither of them used
        for kind, value in [*arguments, ("*i8", 0), ("*i8", 0)]:
            form, number = _packed(kind, value)
            size = struct.calcsize(form)
            at = -(-at // size) * size
            struct.pack_into(f"<{form}", block, at, number)
            at += size
        started = time.monotonic()
        self.run_asm(
            code.entry,
            0,
            *grid,
            metadata.num_warps * self.architecture.lanes,
            1,
            1,
            ctypes.addressof(block),
            rsrc2=code.resources_with(metadata.shared),
            scratch_size=code.scratch_size,
            arch="cdna" if self.architecture.lanes == 64 else "rdna3",
            user_data=code.scalar_registers(block),
        )
        self.seconds += time.monotonic() - started
        self.launches[name] += 1


def _packed(kind: str, value: Any) -> tuple[str, Any]:
    """The format of an argument of Triton's type `kind`, and the number to put there."""
    if kind.startswith("*"):
        return "Q", value.data_ptr() if hasattr(value, "data_ptr") else int(value or 0)
    return FORMATS[kind], value
