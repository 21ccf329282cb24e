"""NF4 weights as plain data: codes, block scales and a shape.

bitsandbytes defines the format, and only its functional API is used: on CPUs with AVX512-BF16 its
`Linear4bit` module repacks a weight in place at the first eval-mode forward, after which the same
bytes dequantise to a permuted matrix without any error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from bitsandbytes import functional as bnb
from torch import Tensor

BLOCK_LEN = 64


@dataclass(frozen=True)
class Nf4Weight:
    """A linear weight [N, K] in NF4: blocks of 64 along the flattened row-major weight.

    codes: uint8 [ceil(N*K / 2), 1]; two codes a byte, the earlier element in the high nibble.
    absmax: float32 [ceil(N*K / 64)], one scale a block. A nested ("double quantised") absmax is
        resolved to float32 before it gets here.
    shape: (N, K). K need not be a multiple of 64: a block may then cross rows.

    Format: QLoRA, https://arxiv.org/abs/2305.14314, section 3.
    """

    codes: Tensor
    absmax: Tensor
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        n, k = self.shape
        num_codes, num_blocks = -(-n * k // 2), -(-n * k // BLOCK_LEN)
        if self.codes.dtype != torch.uint8 or self.codes.numel() != num_codes:
            raise ValueError(
                f"NF4 codes of a [{n}, {k}] weight must be {num_codes} uint8 values, "
                f"got {self.codes.numel()} of {self.codes.dtype}"
            )
        if self.absmax.dtype != torch.float32 or self.absmax.numel() != num_blocks:
            raise ValueError(
                f"NF4 absmax of a [{n}, {k}] weight must be {num_blocks} float32 values, "
                f"got {self.absmax.numel()} of {self.absmax.dtype}; "
                "resolve a nested absmax to float32 first"
            )

    @classmethod
    def quantize(cls, weight: Tensor, *, double_quant: bool = False) -> Nf4Weight:
        """Quantise a floating-point weight [N, K].

        double_quant also quantises the scales to 8 bits, as bitsandbytes' compress_statistics
        does. They are resolved to float32 again here, so it changes values, not memory in use.
        """
        if weight.dim() != 2:
            raise ValueError(f"a linear weight has two dimensions, got shape {tuple(weight.shape)}")
        codes, state = bnb.quantize_4bit(
            weight.contiguous(),
            blocksize=BLOCK_LEN,
            compress_statistics=double_quant,
            quant_type="nf4",
        )
        absmax = state.absmax
        if state.nested:
            absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
        return cls(codes, absmax.float(), (weight.shape[0], weight.shape[1]))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K] in `dtype` (float32, bfloat16 or float16), on the codes' device."""
        state = bnb.QuantState(
            absmax=self.absmax.reshape(-1),
            # flat: given rows, the CPU kernel restarts the blocks at each row whose length is a
            # multiple of 32 but not of 64, and scales by the wrong ones without any error
            shape=torch.Size((self.shape[0] * self.shape[1],)),
            dtype=dtype,
            blocksize=BLOCK_LEN,
            quant_type="nf4",
            code=bnb.get_4bit_type("nf4", device=self.codes.device),
        )
        # bitsandbytes hands a one-byte weight back transposed; the elements are in order.
        weight: Tensor = bnb.dequantize_4bit(self.codes.reshape(-1, 1), state)
        return weight.reshape(self.shape)

    def to(self, device: torch.device) -> Nf4Weight:
        """The same weight with its tensors on `device`."""
        return Nf4Weight(self.codes.to(device), self.absmax.to(device), self.shape)

    @property
    def num_bytes(self) -> int:
        return self.codes.numel() + 4 * self.absmax.numel()
