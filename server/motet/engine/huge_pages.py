"""Large pages for memory that is read all over."""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor


def prefer_huge_pages(tensor: Tensor) -> bool:
    """Ask the system to back a tensor in host memory with large pages; whether it takes the hint.

    A sequence's blocks lie anywhere in the KV cache, so that with small pages nearly every block
    needs an address translation that the processor has not kept. Call it before the memory is
    first written to. Where the system knows no such pages, or has none, nothing changes.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if advice is None or start >= stop:
        return False
    madvise = ctypes.CDLL(None).madvise
    return bool(madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice) == 0)
