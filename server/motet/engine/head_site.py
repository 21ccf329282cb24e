"""The output head: unquantised, often shared with the embedding, and with adapters of its own."""

from __future__ import annotations

from dataclasses import dataclass

from motet_adapters import SiteParts
from motet_kernels import Ops, PackedDense, PackedDenseOps, SlotTable
from torch import Tensor, nn

from motet.engine.linear import CurrentRouting, DenseLinear
from motet.engine.lowrank_parts import lowrank_of


@dataclass(frozen=True)
class _HeadRows:
    """What a slot has instead of the base's weight: all of it, or the rows of some tokens."""

    weight: Tensor | None  # [V, K]
    replaced: Tensor | None  # int64 [n]
    rows: Tensor | None  # [n, K]


class _PackedHead:
    """The base's head in the form that its implementation multiplies fastest."""

    def __init__(self, ops: PackedDenseOps, packed: PackedDense) -> None:
        self._ops = ops
        self._packed = packed

    @classmethod
    def of(cls, linear: nn.Linear, ops: PackedDenseOps) -> _PackedHead | None:
        packed = ops.pack_dense(linear.weight.detach(), linear.bias)
        return None if packed is None else cls(ops, packed)

    @property
    def num_bytes(self) -> int:
        return self._packed.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [1, T, K] -> [1, T, V]."""
        return self._ops.packed_dense_linear(x[0], self._packed)[None]


class AdaptedHead(DenseLinear):
    """y = W_t x, the adapter's low-rank part on top; W_t the base's weight or the row's own.

    x holds the rows whose logits are wanted, so it has a routing of its own.
    """

    def __init__(
        self, linear: nn.Linear, ops: Ops, routing: CurrentRouting, num_slots: int
    ) -> None:
        super().__init__(linear, ops)
        out_features, in_features = linear.weight.shape
        self._packed = _PackedHead.of(linear, ops) if isinstance(ops, PackedDenseOps) else None
        self._table = SlotTable(num_slots, in_features, out_features, linear.weight.device)
        self._own: dict[int, _HeadRows] = {}
        self._routing = routing

    @property
    def packed_bytes(self) -> int:
        """Memory of the base's head in its implementation's own form, beside the weight itself."""
        return 0 if self._packed is None else self._packed.num_bytes

    def put(self, slot: int, parts: SiteParts) -> None:
        self.clear(slot)
        tensors = parts.tensors
        if "a" in tensors:
            self._table.put(slot, lowrank_of(parts))
        if "weight" in tensors or "rows" in tensors:
            self._own[slot] = _HeadRows(
                tensors.get("weight"), tensors.get("rows_index"), tensors.get("rows")
            )

    def clear(self, slot: int) -> None:
        self._table.clear(slot)
        self._own.pop(slot, None)

    def forward(self, x: Tensor) -> Tensor:
        """x [1, T, K] -> [1, T, V]."""
        y = super().forward(x) if self._packed is None else self._packed(x)
        routing = self._routing.of_logits()
        for slot, start, stop in routing.segments:
            if slot in self._own:
                y[0, start:stop] = self._own_rows(
                    self._own[slot], x[0, start:stop], y[0, start:stop]
                )
        if any(self._table[segment.slot] is not None for segment in routing.segments):
            y = self._ops.adapt(x[0], y[0], self._table, routing)[None]
        return y

    def _own_rows(self, own: _HeadRows, x: Tensor, y: Tensor) -> Tensor:
        x = x.contiguous()
        if own.weight is not None:
            y = self._ops.dense_linear(x, own.weight.to(x.dtype), self.bias)
        if own.replaced is not None and own.rows is not None:
            bias = None if self.bias is None else self.bias.index_select(0, own.replaced)
            replaced = self._ops.dense_linear(x, own.rows.to(x.dtype), bias)
            y = y.index_copy(1, own.replaced, replaced)
        return y
