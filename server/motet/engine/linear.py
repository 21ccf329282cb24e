"""The second seam: one module in place of every target `nn.Linear`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from motet_kernels import Ops, PackedGroup, Routing, SlotTable
from torch import Tensor, nn


class CurrentRouting:
    """Where the layers read the running step's routing; the engine thread sets it per step."""

    def __init__(self) -> None:
        self._routings: tuple[Routing, Routing] | None = None

    def set(self, routing: Routing, of_logits: Routing) -> None:
        """of_logits: of the tokens whose logits are wanted, in the order of the logits."""
        self._routings = (routing, of_logits)

    def get(self) -> Routing:
        return self._both()[0]

    def of_logits(self) -> Routing:
        return self._both()[1]

    def _both(self) -> tuple[Routing, Routing]:
        if self._routings is None:
            raise RuntimeError("a layer ran outside a step: set the routing before the forward")
        return self._routings


class LinearGroup:
    """Sibling linears that are fed the same tensor (q/k/v, gate/up), computed in one go.

    The model calls its members one after the other; the first call computes them all and the
    others pick up their output. If a member is ever fed another tensor, the group is computed for
    that one: right, only slower.
    """

    def __init__(
        self,
        ops: Ops,
        packed: PackedGroup,
        tables: Sequence[SlotTable],
        routing: CurrentRouting,
    ) -> None:
        self.tables = tuple(tables)
        self._ops = ops
        self._packed = packed
        self._routing = routing
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    @property
    def packed(self) -> PackedGroup:
        return self._packed

    @property
    def num_bytes(self) -> int:
        """Memory of the packed weights."""
        values = (getattr(self._packed, item.name) for item in fields(self._packed))
        return sum(value.nbytes for value in values if isinstance(value, Tensor))

    def output(self, x: Tensor, member: int) -> Tensor:
        """x [1, T, K] -> y of that member [1, T, N]."""
        if x is not self._input:
            flat = x.reshape(-1, x.shape[-1])
            self._input = x
            self._outputs = self._ops.adapted_linear(
                flat, self._packed, self.tables, self._routing.get()
            )
        y = self._outputs[member]
        if member == len(self.tables) - 1:
            self.forget()
        return y.view(*x.shape[:-1], -1)

    def forget(self) -> None:
        """Drop the kept tensors, so that nothing of a step outlives it."""
        self._input, self._outputs = None, ()


class AdaptedLinear(nn.Module):
    """y = gain * (W x + B A x) + bias per token, by the slot the running step gives it.

    Holds no parameters of its own: the NF4 weight lives in the group's packed form.
    """

    def __init__(self, group: LinearGroup, member: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.group = group
        self.member = member
        self.out_features, self.in_features = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.group.output(x, self.member)


class DenseLinear(nn.Module):
    """An unquantised linear, such as the output head, whose rows do not feel each other."""

    def __init__(self, linear: nn.Linear, ops: Ops) -> None:
        super().__init__()
        self.weight = linear.weight  # shared with the embedding where the model ties them
        self.bias = linear.bias
        self._ops = ops

    def forward(self, x: Tensor) -> Tensor:
        """x [1, T, K] -> [1, T, N]."""
        y = self._ops.dense_linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return y.view(*x.shape[:-1], -1)
