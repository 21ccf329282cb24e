"""The compiled library as Python calls it: its levels and its functions."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from motet_kernels.cpu.native_build import BuildFailed, library_path

# Best first.
LEVELS = ("amx-bf16", "avx512-bf16", "avx512", "avx2", "portable")

# Inputs of bf16 products rounded to 8 bits: chosen where fast_math is asked for, or named.
FAST_LEVELS = ("avx512-vnni",)

# For tests: AMX's tiles in software, where AVX512-BF16 is. Never chosen, only named.
EMULATED_LEVELS = ("amx-bf16-emulated",)

ALL_LEVELS = (*LEVELS, *FAST_LEVELS, *EMULATED_LEVELS)


class NativeLibrary:
    """One level of the library, loaded into this process."""

    def __init__(self, level: str | None = None) -> None:
        """level: one of ALL_LEVELS; None: the best of LEVELS this machine runs.

        Raises BuildFailed if the library cannot be made or loaded, ValueError for a level that
        does not exist or that this machine cannot run.
        """
        library = _load()
        runnable = _runnable(library, LEVELS)
        if level is not None and level not in _runnable(library, ALL_LEVELS):
            raise ValueError(f"this machine cannot run {level}; it runs {', '.join(runnable)}")
        self.level = level or runnable[0]
        self.linear = _at_level(library, "linear", self.level)
        self.dense = _at_level(library, "dense", self.level)
        self.largest = _at_level(library, "largest", self.level)
        self.attention = _at_level(library, "attention", self.level)
        self.layers = _at_level(library, "layers", self.level)
        self.store_kv = _function(library, "store_kv", c_int, [c_void_p])
        self._packed_size = _function(library, "packed_size", c_int64, [c_int64] * 3)
        self._pack = _function(
            library, "pack", None, [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]
        )

    def packed_size(self, n: int, k: int, scale_len: int) -> int:
        """Bytes of a packed [n, k] weight whose scales hold for `scale_len` weights along k."""
        size: int = self._packed_size(n, k, scale_len)
        return size

    def pack(self, codes: int, absmax: int, n: int, k: int, scale_len: int, packed: int) -> None:
        """Pack codes and absmax into `packed`; all three are addresses."""
        self._pack(codes, absmax, n, k, scale_len, packed)


class RoundingLibrary:
    """What a level of FAST_LEVELS has besides: linears whose weights are rounded to 8 bits."""

    def __init__(self, level: str) -> None:
        """Raises BuildFailed like NativeLibrary."""
        library = _load()
        function = f"rounded_dense_{_symbol(level)}"
        self.dense = _function(library, function, c_int, [c_void_p, c_int64])
        self._packed_size = _function(library, "rounded_size", c_int64, [c_int64] * 3)
        self._pack = _function(
            library, "pack_rounded", None, [c_void_p, c_int64, c_int64, c_int64, c_void_p]
        )

    def packed_size(self, n: int, k: int, scale_len: int) -> int:
        """Bytes of a packed [n, k] weight whose scales hold for `scale_len` weights along k."""
        size: int = self._packed_size(n, k, scale_len)
        return size

    def pack(self, weight: int, n: int, k: int, scale_len: int, packed: int) -> None:
        """Pack a bf16 weight into `packed`; both are addresses."""
        self._pack(weight, n, k, scale_len, packed)


def runnable_levels(levels: Sequence[str] = LEVELS) -> tuple[str, ...]:
    """Those of `levels` this machine runs, in order. Raises BuildFailed like NativeLibrary."""
    return _runnable(_load(), levels)


def _load() -> ctypes.CDLL:
    _share_openmp()
    path = library_path()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildFailed(f"cannot load {path}: {error}") from error


def _runnable(library: ctypes.CDLL, levels: Sequence[str]) -> tuple[str, ...]:
    return tuple(level for level in levels if level == "portable" or _has(library, level))


def _has(library: ctypes.CDLL, level: str) -> bool:
    """Whether the level was compiled for this kind of processor, and this one has it."""
    function: Any = getattr(library, f"motet_has_{_symbol(level)}", None)
    return function is not None and bool(function())


def _at_level(library: ctypes.CDLL, name: str, level: str) -> Any:
    """A function of one struct's address that each level has."""
    return _function(library, f"{name}_{_symbol(level)}", c_int, [c_void_p])


def _function(library: ctypes.CDLL, name: str, result: Any, arguments: list[Any]) -> Any:
    function: Any = getattr(library, f"motet_{name}")
    function.restype = result
    function.argtypes = arguments
    return function


def _symbol(level: str) -> str:
    return level.replace("-", "_")


def _share_openmp() -> None:
    """Make torch's OpenMP visible to the library, which is linked against none.

    torch's shared libraries bring it into the process, usually where only they see it.
    """
    if hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return
    maps = Path("/proc/self/maps")
    mapped = set(re.findall(r"/\S*lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*", _read(maps)))
    for path in sorted(mapped):
        if hasattr(ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL), "GOMP_parallel"):
            return
    raise BuildFailed("torch has no OpenMP here that the kernels could share")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise BuildFailed(f"cannot read {path}: {error}") from error
