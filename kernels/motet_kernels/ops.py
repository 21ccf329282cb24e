"""The operations, each stated once. Three implementations obey all of it: reference, cpu, gpu.

Tensor letters: T tokens, K in, N out, R rank, S slots, P cache blocks, Hq/Hkv query/key heads,
D head size of queries and keys, Dv of values. The maths is in kernels/README.md.

The isolation promise, bit for bit: what a token gets depends on its own row's data and its own
adapter, never on what else is in the batch, how many rows there are, or in which order they come.
Cache entries past a row's kv_len and slots that are not routed to may hold anything, NaN included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.lowrank import SlotTable
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.routing import Routing


@dataclass(frozen=True)
class PackedGroup:
    """One or more linears that are fed the same input, in the form one implementation reads.

    Opaque to callers; each implementation extends it and accepts only its own.
    """

    in_features: int  # K
    out_features: tuple[int, ...]  # N of each member


@dataclass(frozen=True)
class AttentionPlan:
    """Everything about a step's attention that does not depend on the layer.

    Opaque to callers; each implementation extends it and accepts only its own.
    """

    num_tokens: int


class Ops(Protocol):
    """What a model needs of a device. Stateless between calls as far as results go."""

    @property
    def name(self) -> str:
        """Which implementation it is: reference, cpu or gpu."""

    def row_multiple(self, dtype: torch.dtype) -> int:
        """Row counts that keep a plain dense product's rows independent of each other.

        Many matrix libraries choose their kernel, and with it the order of a sum, by the number
        of rows. A product handed a multiple of this many rows gives a row the same bits each
        time; one with a weight of a few thousand elements may need more rows than that. 1: nothing
        needs padding. `dense_linear` finds its weight's own multiple and pads to it.
        """

    def adapter_dtype(self, compute: torch.dtype) -> torch.dtype:
        """The dtype A, B transposed, gain and bias of a LowRank are to be stored in."""

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> PackedGroup:
        """Prepare linears [N_j, K] that share an input; biases [N_j] or None, one for each.

        dtype: the dtype of the inputs that will come. Raises ValueError if K differs.
        """

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """y = W x + bias for an unquantised weight, under the isolation promise.

        x [T, K], weight [N, K], bias [N] or None, one dtype -> y [T, N]. For lm_head and the like.
        """

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        """Every member's linear with every token's own adapter.

        y_j[t] = gain * (W_j x[t] + B (A x[t])) + bias_j + adapter_bias
        with a, bt, gain, bias of `tables[j][slot of t]`, and what else `LowRank` says. A slot
        without an entry, and always slot 0, gives y_j[t] = W_j x[t] + bias_j, the very bits of a
        batch of base rows only. A group of several members has no in_gain in its tables: raises
        ValueError for a token's slot that has.

        x [T, K], T = routing.num_tokens -> one y_j [T, N_j] a member, in x's dtype; y_j may be
        views into one buffer, with stride (sum N, 1).
        """

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        """The adapter half alone, on top of a result that is there: a new tensor like y.

        out[t] = gain * (y[t] + delta_gain * B activation(core (A x[t]) + inner_bias)) + bias of
        `table[slot of t]`; a slot without an entry, and always slot 0, gives y[t] itself.
        x [T, K], y [T, N] of one dtype, T = routing.num_tokens. For products with a weight that is
        not quantised (lm_head), and, with x = y, for adapters on a layer's own output. No entry
        of a token's slot has an in_gain: raises ValueError.
        """

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> AttentionPlan:
        """Prepare a step's attention, once; every layer uses the plan.

        The rows' queries must cover [0, T) in order. Raises ValueError where they cannot be.
        """

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        """k_cache[slot] = k, v_cache[slot] = v, for each of T tokens, in place.

        k [T, Hkv, D], v [T, Hkv, Dv]; caches [P, block_size, Hkv, D or Dv], contiguous;
        slots int64 [T], block * block_size + offset, all different.
        """

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        plan: AttentionPlan,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Causal attention of each query over its own row's cached keys and values.

        out[t, h] = sum_p softmax_p(cap(scale * q[t, h] . k[p, h // (Hq / Hkv)])) v[p, ...]
        over positions p <= position of t, and p > position - window where a window is given;
        cap(s) = softcap * tanh(s / softcap), or s.

        q [T, Hq, D], caches [P, block_size, Hkv, D or Dv] -> [T, Hq, Dv] in q's dtype. Hq is a
        multiple of Hkv. All keys and values of the step must have been stored before.
        """


def check_group(weights: Sequence[Nf4Weight], biases: Sequence[Tensor | None]) -> None:
    """Raise ValueError unless the linears can share an input and each has its bias or None."""
    if not weights or len(weights) != len(biases):
        raise ValueError(f"a group needs a bias or None for each of its {len(weights)} weights")
    if len({weight.shape[1] for weight in weights}) != 1:
        shapes = [weight.shape for weight in weights]
        raise ValueError(f"linears of a group share their input size K, got shapes {shapes}")
    for weight, bias in zip(weights, biases, strict=True):
        if bias is not None and tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(f"a bias of {weight.shape} must be [N], got {tuple(bias.shape)}")
