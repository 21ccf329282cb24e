"""The compiled library as Python calls it: its structs, its levels, its functions."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from motet_kernels.cpu.native_build import BuildFailed, library_path

# Best first.
LEVELS = ("amx-bf16", "avx512-bf16", "avx512", "avx2", "portable")

# For tests: AMX's tiles in software, where AVX512-BF16 is. Never chosen, only named.
EMULATED_LEVELS = ("amx-bf16-emulated",)

ALL_LEVELS = (*LEVELS, *EMULATED_LEVELS)


class Segment(Structure):
    _fields_ = (("slot", c_int64), ("start", c_int64), ("stop", c_int64))


class Block(Structure):
    _fields_ = (
        ("member", c_int32),
        ("width", c_int32),
        ("column", c_int64),
        ("num_columns", c_int64),
        ("out_column", c_int64),
    )


class Group(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("blocks", POINTER(Block)),
        ("num_blocks", c_int64),
        ("num_members", c_int64),
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("scale_len", c_int64),
    )


class LinearCall(Structure):
    _fields_ = (
        ("group", POINTER(Group)),
        ("x", c_void_p),
        ("base", c_void_p),
        ("y", c_void_p),
        ("residual", c_void_p),
        ("segments", c_void_p),
        ("tables", c_void_p),
        ("num_segments", c_int64),
        ("num_tokens", c_int64),
        ("is_bf16", c_int32),
        ("num_threads", c_int32),
    )


class AttentionCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "v", "out", "rows", "blocks")),
        *((name, c_int64) for name in ("num_rows", "num_tokens", "longest")),
        *((name, c_int64) for name in ("q_token_stride", "q_head_stride")),
        *((name, c_int64) for name in ("block_size", "num_heads", "num_kv_heads")),
        *((name, c_int64) for name in ("key_size", "value_size", "window")),
        *((name, c_float) for name in ("scale", "softcap")),
        *((name, c_int32) for name in ("is_bf16", "num_threads")),
    )


class StoreCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("k", "v", "k_cache", "v_cache", "slots")),
        *((name, c_int64) for name in ("num_tokens", "num_heads", "num_places")),
        *((name, c_int64) for name in ("k_token_stride", "k_head_stride")),
        *((name, c_int64) for name in ("v_token_stride", "v_head_stride")),
        *((name, c_int64) for name in ("k_bytes", "v_bytes")),
    )


class NativeLibrary:
    """One level of the library, loaded into this process."""

    def __init__(self, level: str | None = None) -> None:
        """level: one of LEVELS or EMULATED_LEVELS; None: the best of LEVELS this machine runs.

        Raises BuildFailed if the library cannot be made or loaded, ValueError for a level that
        does not exist or that this machine cannot run.
        """
        library = _load()
        runnable = _runnable(library, LEVELS)
        if level is not None and level not in _runnable(library, ALL_LEVELS):
            raise ValueError(f"this machine cannot run {level}; it runs {', '.join(runnable)}")
        self.level = level or runnable[0]
        self.linear = _function(library, f"linear_{_symbol(self.level)}", c_int, [c_void_p])
        self.attention = _function(library, f"attention_{_symbol(self.level)}", c_int, [c_void_p])
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
