"""Nf4Weight against bitsandbytes' own functions and against the table of the format."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes import functional as bnb
from motet_kernels import Nf4Weight

SHAPES = [(64, 128), (24, 60), (7, 127), (61, 64), (1, 1), (1, 2), (3, 5)]
# Rows of 32 more than a multiple of 64, which bitsandbytes' CPU kernel scales wrongly.
MISSCALED = [(24, 160), (7, 96), (64, 32)]


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_bitsandbytes(
    shape: tuple[int, int], dtype: torch.dtype, double_quant: bool
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    codes, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=double_quant, quant_type="nf4"
    )
    expected = bnb.dequantize_4bit(codes, state).reshape(shape)
    quantized = Nf4Weight.quantize(weight, double_quant=double_quant)
    assert torch.equal(quantized.dequantize(dtype), expected)
    assert torch.equal(quantized.codes.flatten(), codes.flatten())


@pytest.mark.parametrize("shape", [*SHAPES, *MISSCALED])
def test_equals_the_format_as_written_down(shape: tuple[int, int]) -> None:
    """High nibble first, one scale for 64 elements of the flattened weight."""
    weight = Nf4Weight.quantize(torch.randn(shape, generator=torch.Generator().manual_seed(2)))
    codes = weight.codes.flatten().int()
    nibbles = torch.stack([codes >> 4, codes & 15], dim=1).flatten()[: shape[0] * shape[1]]
    table = bnb.get_4bit_type("nf4", device="cpu")
    scales = weight.absmax.repeat_interleave(64)[: nibbles.numel()]
    assert torch.equal(weight.dequantize(torch.float32), (table[nibbles] * scales).view(shape))


def test_strided_weight() -> None:
    weight = torch.randn(24, 60)
    turned = Nf4Weight.quantize(weight.T)
    assert torch.equal(
        turned.dequantize(torch.float32),
        Nf4Weight.quantize(weight.T.contiguous()).dequantize(torch.float32),
    )


def test_num_bytes_are_those_of_the_tensors() -> None:
    assert Nf4Weight.quantize(torch.randn(64, 128)).num_bytes == 64 * 128 // 2 + 4 * 128


def test_refusals() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        Nf4Weight.quantize(torch.randn(64))
    weight = Nf4Weight.quantize(torch.randn(8, 64))
    with pytest.raises(ValueError, match="256 uint8 values"):
        Nf4Weight(weight.codes[:-1], weight.absmax, weight.shape)
    with pytest.raises(ValueError, match="nested absmax"):
        Nf4Weight(weight.codes, weight.absmax.to(torch.uint8), weight.shape)
