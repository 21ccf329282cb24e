"""The activations between A and B: how near to torch's, and the same in every lane."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import ACTIVATIONS, Activation, LowRank, Ops, Routing, SlotTable
from torch import Tensor
from transformers.activations import ACT2FN

from tests.support.kernel_cases import CPU

ORDINARY = torch.cat([torch.linspace(-12, 12, 4001), torch.linspace(-0.7, 0.7, 1001)])
SMALL = torch.tensor([sign * 10.0**-e for e in range(1, 31) for sign in (1, -1)])
LARGE = torch.tensor([sign * v for v in (20.0, 50.0, 88.5, 300.0, 1e4, 1e9) for sign in (1, -1)])


def through(ops: Ops, activation: Activation, values: Tensor) -> Tensor:
    """activation(values) by adapters whose A and B are unit matrices, 33 elements a row."""
    width = 33
    rows = torch.nn.functional.pad(values, (0, -len(values) % width)).view(-1, width)
    table = SlotTable(2, width, width, CPU)
    unit = torch.eye(width)
    table.put(1, LowRank(unit, unit, activation=activation))
    routing = Routing.from_slots([1] * len(rows))
    return ops.adapt(rows, torch.zeros_like(rows), table, routing).flatten()[: len(values)]


def definition(activation: Activation, values: Tensor) -> Tensor:
    wide = values.double()
    result: Tensor = wide if activation == "identity" else ACT2FN[activation](wide)
    return result


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_torchs_to_a_millionth(native: Ops, activation: Activation) -> None:
    for values in (ORDINARY, SMALL, LARGE):
        expected = definition(activation, values)
        allowed = 1e-6 * expected.abs() + 1e-30
        if activation in ("gelu", "gelu_new", "silu"):  # x times a share, which may be next to 0
            allowed += 1e-8 * values.abs()
        error = (through(native, activation, values).double() - expected).abs()
        assert (error <= allowed).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_element_is_the_same_in_every_lane(native: Ops, activation: Activation) -> None:
    values = ORDINARY[::37]
    expected = through(native, activation, values)
    for shift in range(1, 34):
        moved = through(native, activation, torch.cat([torch.zeros(shift), values]))
        assert torch.equal(moved[shift:], expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan(native: Ops, activation: Activation) -> None:
    table = SlotTable(2, 1, 1, CPU)
    table.put(1, LowRank(torch.ones(1, 1), torch.ones(1, 1), activation=activation))
    nan = torch.tensor([[torch.nan]])
    assert native.adapt(nan, torch.zeros(1, 1), table, Routing.from_slots([1])).isnan()
