"""The kernel-ready form of an adapter for one base and one dtype: a single flat buffer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and what vector loads on every target like

Views = Mapping[str, tuple[Tensor, Tensor, Tensor | None]]


class Entry(NamedTuple):
    """Where one module's tensors lie. Offsets in bytes from the buffer's start, all aligned."""

    rank: int
    in_features: int
    out_features: int
    a_offset: int  # A   [rank, in_features]
    bt_offset: int  # Bᵀ  [rank, out_features], the scale folded in
    gain_offset: int | None  # [out_features], DoRA only


class Target(NamedTuple):
    """One adapted module, before it has a place in an image."""

    rank: int
    in_features: int
    out_features: int
    has_gain: bool


@dataclass(frozen=True)
class Layout:
    """Entries and the size of the buffer that holds them."""

    entries: Mapping[str, Entry]
    num_bytes: int

    @classmethod
    def of(cls, targets: Iterable[tuple[str, Target]], dtype: torch.dtype) -> "Layout":
        """Lay the targets out one after the other, at their true rank, each tensor aligned."""
        entries: dict[str, Entry] = {}
        end = 0
        for module, (rank, in_features, out_features, has_gain) in targets:
            a_offset = end
            bt_offset = aligned(a_offset + rank * in_features * dtype.itemsize)
            end = aligned(bt_offset + rank * out_features * dtype.itemsize)
            gain_offset = None
            if has_gain:
                gain_offset, end = end, aligned(end + out_features * dtype.itemsize)
            entries[module] = Entry(
                rank, in_features, out_features, a_offset, bt_offset, gain_offset
            )
        return cls(entries, end)


@dataclass(frozen=True)
class Image:
    """An adapter lowered for one base and dtype. `buffer` is never written after construction."""

    digest: str
    dtype: torch.dtype
    buffer: Tensor  # uint8 [num_bytes]
    entries: Mapping[str, Entry]

    @property
    def num_bytes(self) -> int:
        return self.buffer.numel()

    def views(self, buffer: Tensor) -> Views:
        """Module -> (A [R, K], Bᵀ [R, N], gain [N] or None), as views into `buffer`.

        `buffer` is uint8 [num_bytes] with this image's bytes, on any device.
        """
        return views_into(buffer, self.entries, self.dtype)


def views_into(buffer: Tensor, entries: Mapping[str, Entry], dtype: torch.dtype) -> Views:
    """The tensors of a laid-out buffer, without copying."""
    if buffer.dtype != torch.uint8 or buffer.dim() != 1:
        raise ValueError("an image's buffer is a one-dimensional uint8 tensor")

    def view(offset: int, *shape: int) -> Tensor:
        count = torch.Size(shape).numel()
        return buffer[offset : offset + count * dtype.itemsize].view(dtype).view(shape)

    return {
        module: (
            view(entry.a_offset, entry.rank, entry.in_features),
            view(entry.bt_offset, entry.rank, entry.out_features),
            None if entry.gain_offset is None else view(entry.gain_offset, entry.out_features),
        )
        for module, entry in entries.items()
    }


def aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-offset // alignment) * alignment
