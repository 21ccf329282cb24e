"""The adapter half of linears: what is launched, with which sizes, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from motet_kernels.gpu.inner_stage import inner_kernel
from motet_kernels.gpu.lowrank_kernels import expand_kernel, scale_rows_kernel, shrink_kernel
from motet_kernels.gpu.lowrank_row_kernels import expand_row_kernel, shrink_row_kernel
from motet_kernels.gpu.member_tables import MemberTables, MemberTablesCache
from motet_kernels.gpu.output_tiles import num_output_tiles
from motet_kernels.gpu.tiles import TILE_ROWS, Tiles
from motet_kernels.gpu.tuning import LowRankConfig, TuningTable
from motet_kernels.lowrank import SlotTable

# Most rows that `fast_math` computes one by one.
FEW_ROWS = 4

SCALE_BLOCK = 1024  # inputs of a program that multiplies a row by its in_gain
CORE_BLOCK = 8  # entries of a core's row at a time

TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


@dataclass(frozen=True)
class Shrunk:
    """What `expand_tile` and `expand_row` need of a step's rows and of a group's adapters.

    planes: float32 [T, SPLIT + 1, J, RANKS]; u of row t and member j is the sum over the first
    SPLIT planes in order, or, where the slot has an inner stage, the last plane.
    """

    rows: Tensor
    tables: MemberTables
    planes: Tensor
    config: LowRankConfig
    by_row: bool  # one row at a time: other bits than by tiles

    def constants(self) -> dict[str, Any]:
        """expand's constants, by the names that it has for them; the dtype goes by another."""
        return {
            "SPLIT": self.planes.shape[1] - 1,
            "NUM_MEMBERS": self.tables.num_members,
            "RANKS": self.tables.ranks,
            "ALIGNED": self.tables.aligned,
            "BLOCK_R": self.config.block_ranks,
        }


class LowRankProduct:
    """The adapter half of linears on one device.

    Without fast_math a row's bits depend on the row and its adapter alone: the sum over K is cut
    by K alone, never by the batch, the parts are added in order, and a row goes through the same
    instructions whatever else is in its tile. fast_math computes up to FEW_ROWS rows one by one,
    in another order.
    """

    def __init__(self, tuning: TuningTable, *, fast_math: bool = False) -> None:
        self._tuning = tuning
        self._fast_math = fast_math
        self._cache = MemberTablesCache()

    def scaled(self, x: Tensor, tables: Sequence[SlotTable], tiles: Tiles) -> Tensor:
        """z = in_gain * x [T, K] for the rows whose slot has one, rounded to x's dtype.

        x itself where no slot has one. Raises ValueError for a token's slot that has one where
        the linear is not alone in its group.
        """
        members = self._members(tables, x.dtype, tiles)
        if not members.scaled_slots:
            return x
        if members.num_members > 1:
            refuse_in_gain(members.scaled_slots & tiles.slots)
            return x
        z = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        scale_rows_kernel[(x.shape[0], triton.cdiv(x.shape[1], SCALE_BLOCK))](
            z,
            x,
            tiles.rows,
            members.pointers,
            x.shape[1],
            x.stride(0),
            ALIGNED=members.aligned,
            BLOCK_K=SCALE_BLOCK,
        )
        return z

    def shrink(self, z: Tensor, tables: Sequence[SlotTable], tiles: Tiles) -> Shrunk | None:
        """u of every row on every member; None: no row has an adapter here.

        z [T, K], its last dimension contiguous, T at least one.
        """
        members = self._members(tables, z.dtype, tiles)
        if not members.slots & tiles.slots:
            return None
        config = self._tuning.lowrank(z.shape[0])
        by_row = self._fast_math and z.shape[0] <= FEW_ROWS
        num_planes = num_splits(z.shape[1], config) + 1
        planes = torch.empty(
            (z.shape[0], num_planes, members.num_members, members.ranks),
            dtype=torch.float32,
            device=z.device,
        )
        shrunk = Shrunk(tiles.rows, members, planes, config, by_row)
        if members.has_products:
            _shrink(z, shrunk, tiles)
        if members.has_inner:
            _inner(shrunk, tiles)
        return shrunk

    def expand(self, y: Tensor, shrunk: Shrunk, tiles: Tiles, base_bias: Tensor | None) -> Tensor:
        """gain * (y + delta_gain * B u) + bias + base bias: a new tensor like y.

        y [T, sum N], W z of all members side by side, its last dimension contiguous; base_bias
        float32 [sum N].
        """
        out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        members, config = shrunk.tables, shrunk.config
        output_tiles = num_output_tiles(members.out_features, config.block_outputs)
        tables = (members.pointers, shrunk.planes, members.sizes)
        numbers = (out if base_bias is None else base_bias, out.stride(0), y.stride(0))
        constants = {
            **shrunk.constants(),
            "HAS_BASE_BIAS": base_bias is not None,
            "BLOCK_N": config.block_outputs,
            "num_warps": config.num_warps,
        }
        if shrunk.by_row:
            expand_row_kernel[(y.shape[0], output_tiles)](
                out, y, tiles.rows, *tables, *numbers, **constants
            )
        else:
            expand_kernel[(len(tiles), output_tiles)](
                out, y, tiles.table, *tables, *numbers, **constants, BLOCK_T=TILE_ROWS
            )
        return out

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, tiles: Tiles) -> Tensor:
        """`Ops.adapt`."""
        refuse_in_gain(self._members([table], x.dtype, tiles).scaled_slots & tiles.slots)
        shrunk = self.shrink(x, [table], tiles) if len(tiles) else None
        return y.clone() if shrunk is None else self.expand(y, shrunk, tiles, None)

    def members(self, tables: Sequence[SlotTable], dtype: torch.dtype) -> MemberTables:
        """The tables as they are now, on the device where they were."""
        return self._cache.of(tables, dtype)

    def _members(
        self, tables: Sequence[SlotTable], dtype: torch.dtype, tiles: Tiles
    ) -> MemberTables:
        """Raises ValueError for a slot that the tables lack: a kernel would read past their end."""
        members = self._cache.of(tables, dtype)
        if tiles.last_slot >= members.pointers.shape[0]:
            raise ValueError(
                f"slot {tiles.last_slot} of the routing is out of range: the linear's table has "
                f"slots 0 to {members.pointers.shape[0] - 1}"
            )
        return members


def num_splits(in_features: int, config: LowRankConfig) -> int:
    """In how many parts K is summed: by K alone, so that a row's sum has one order."""
    return min(config.max_splits, -(-in_features // config.split_len))


def part_len(in_features: int, config: LowRankConfig) -> int:
    """Inputs of a part, a multiple of block_inputs; the last part may be shorter, or empty."""
    part = -(-in_features // num_splits(in_features, config))
    return -(-part // config.block_inputs) * config.block_inputs


def refuse_in_gain(slots: frozenset[int]) -> None:
    """Raise ValueError if there is a slot whose input would have to be scaled where it cannot."""
    if slots:
        raise ValueError(
            f"slot {min(slots)} has an in_gain, which scales the linear's input: only an "
            "adapted linear that is alone in its group takes one"
        )


def _shrink(z: Tensor, shrunk: Shrunk, tiles: Tiles) -> None:
    config, members = shrunk.config, shrunk.tables
    num_split = num_splits(z.shape[1], config)
    rank_tiles = members.num_members * triton.cdiv(members.ranks, config.block_ranks)
    constants = {
        **shrunk.constants(),
        "PART": part_len(z.shape[1], config),
        "BLOCK_K": config.block_inputs,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    numbers = (members.pointers, z.shape[1], z.stride(0))
    if shrunk.by_row:
        grid = (z.shape[0], rank_tiles, num_split)
        shrink_row_kernel[grid](z, shrunk.planes, tiles.rows, *numbers, **constants)
    else:
        grid = (len(tiles), rank_tiles, num_split)
        shrink_kernel[grid](z, shrunk.planes, tiles.table, *numbers, **constants, BLOCK_T=TILE_ROWS)


def _inner(shrunk: Shrunk, tiles: Tiles) -> None:
    constants = shrunk.constants()
    del constants["ALIGNED"]
    members = shrunk.tables
    rank_tiles = members.num_members * triton.cdiv(members.ranks, shrunk.config.block_ranks)
    inner_kernel[(len(tiles), rank_tiles)](
        shrunk.planes,
        tiles.table,
        members.pointers,
        **constants,
        DTYPE=TRITON_DTYPES[members.dtype],
        BLOCK_T=TILE_ROWS,
        BLOCK_C=CORE_BLOCK,
    )
