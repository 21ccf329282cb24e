"""The layout that the GPU kernels read, against bitsandbytes' own dequantiser."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Nf4Weight
from motet_kernels.gpu.nf4_decode import NF4_VALUES
from motet_kernels.gpu.nf4_layout import PackedNf4
from torch import Tensor

from tests.support.kernel_cases import CPU, random_weight

VALUES = torch.tensor(NF4_VALUES)


def read(packed: PackedNf4) -> list[Tensor]:
    """Each member's weight, float32 [N_j, K], element by element as the layout is described."""
    members, first = [], 0
    for size in packed.sizes:
        weight = torch.empty(size, packed.in_features)
        for n in range(size):
            for k in range(packed.in_features):
                block, place = divmod(k, 64)
                byte = int(packed.codes[first + n, block * 32 + place % 32])
                code = byte >> 4 if place < 32 else byte & 15
                late = packed.crossed and place >= 64 - n * packed.in_features % 64
                weight[n, k] = VALUES[code] * packed.absmax[block + late, first + n]
        members.append(weight)
        first += size
    return members


@pytest.mark.parametrize("k", [1, 24, 60, 64, 127, 128, 192, 200])
def test_layout_holds_the_weights(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    weights = [random_weight(n, k, generator) for n in (5, 16, 1)]
    packed = PackedNf4.pack(weights, CPU)
    for weight, found in zip(weights, read(packed), strict=True):
        assert torch.equal(found, weight.dequantize(torch.float32))


def test_bytes_lie_as_the_kernels_load_them() -> None:
    codes = torch.arange(128) % 16
    weight = Nf4Weight(
        (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None], torch.tensor([1.0, 2.0]), (1, 128)
    )
    packed = PackedNf4.pack([weight], CPU)
    byte = 5  # of the second block: inputs 64 + 5 and 64 + 37
    assert packed.codes[0, 32 + byte] == (69 % 16) << 4 | 101 % 16
    assert packed.absmax.tolist() == [[1.0], [2.0]]


def test_rows_start_on_32_bytes_and_are_filled_up_with_zeros() -> None:
    packed = PackedNf4.pack([random_weight(3, 70, torch.Generator())], CPU)
    assert packed.codes.shape == (3, 64)
    assert packed.codes.is_contiguous()
    assert packed.absmax.shape == (3, 3)
    zero = NF4_VALUES.index(0.0)
    assert (packed.codes[:, 32 + 6 :] >> 4 == zero).all()
    assert (packed.codes[:, 32:] & 15 == zero).all()


def test_members_lie_one_below_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [random_weight(n, 64, generator) for n in (32, 16)]
    packed = PackedNf4.pack(weights, CPU)
    assert (packed.sizes, packed.out_features, packed.sizes_divisor) == ((32, 16), 48, 16)
    assert packed.sizes_table.tolist() == [32, 16]
    alone = PackedNf4.pack(weights[1:], CPU)
    assert torch.equal(packed.codes[32:], alone.codes)
    assert torch.equal(packed.absmax[:, 32:], alone.absmax)
    assert PackedNf4.pack([random_weight(24, 64, generator)], CPU).sizes_divisor == 1


def test_layout_is_as_large_as_the_codes() -> None:
    weight = random_weight(48, 192, torch.Generator())
    packed = PackedNf4.pack([weight], CPU)
    assert packed.codes.numel() + 4 * packed.absmax.numel() == weight.num_bytes
