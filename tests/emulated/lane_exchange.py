"""Operands from other lanes (DPP16) on CDNA3 and RDNA3.

Control codes: LLVM's `AMDGPU::DPP::DppCtrl`. What they, the masks and the bound control do is
written from knowledge of AMD's references; no copy of them was at hand to quote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LaneExchange:
    """The last word of an instruction: which register, and which lane of it each lane reads.

    source: lanes; exists: whether the lane is in the row or wave. enabled: by the masks of rows and
    banks. Without zero_bound a lane whose source does not exist, or is inactive and not fetched
    all the same, is not written; with it, it reads 0. modifiers: signs of operands.
    """

    register: int
    source: NDArray[np.int64]
    exists: Mask
    enabled: Mask
    fetch_inactive: bool
    zero_bound: bool
    modifiers: int

    @classmethod
    def of(cls, word: int, lanes: int) -> LaneExchange:
        source, exists = _sources(word >> 8 & 0x1FF, lanes)
        lane = np.arange(lanes)
        enabled = (word >> 28 >> lane // 16 & 1) & (word >> 24 >> lane % 16 // 4 & 1) == 1
        return cls(
            register=word & 0xFF,
            source=np.where(exists, source, 0),
            exists=exists,
            enabled=enabled,
            fetch_inactive=bool(word >> 18 & 1),
            zero_bound=bool(word >> 19 & 1),
            modifiers=word >> 20 & 15,
        )

    def of_lanes(self, values: Words, active: Mask) -> tuple[Words, Mask]:
        """The operand for each lane, and which lanes may be written."""
        is_there = self.exists & (active[self.source] | self.fetch_inactive)
        operand = np.where(is_there, values[self.source], np.uint32(0))
        return operand, self.enabled & (is_there | self.zero_bound)


def _sources(control: int, lanes: int) -> tuple[NDArray[np.int64], Mask]:
    lane = np.arange(lanes)
    row, at, count = lane & ~15, lane & 15, control & 15
    everywhere = lane >= 0
    if control < 0x100:  # quad_perm
        return (lane & ~3) + (control >> 2 * (lane & 3) & 3), everywhere
    if control == 0x140:  # row_mirror
        return row + 15 - at, everywhere
    if control == 0x141:  # row_half_mirror
        return (lane & ~7) + 7 - (lane & 7), everywhere
    if control == 0x142:  # row_bcast:15, the last lane of a row to the next row
        return row - 1, lane >= 16
    if control == 0x143:  # row_bcast:31, lane 31 to the third and fourth row
        return lane * 0 + 31, lane >= 32
    match control >> 4:
        case 0x10:  # row_shl
            return lane + count, at + count < 16
        case 0x11:  # row_shr
            return lane - count, at >= count
        case 0x12:  # row_ror
            return row + (at - count & 15), everywhere
        case 0x15:  # row_share, on CDNA row_newbcast
            return row + count, everywhere
        case 0x16:  # row_xmask
            return lane ^ count, everywhere
    raise RuntimeError(f"an exchange of lanes that is not known here: {control:#x}")
