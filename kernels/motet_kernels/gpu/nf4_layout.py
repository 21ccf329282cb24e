"""NF4 weights in the order in which the GPU kernels read them, made once from their own bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.nf4 import BLOCK_LEN, Nf4Weight

HALF = BLOCK_LEN // 2  # bytes of a block

# The code whose value is 0: what rows are filled up with.
ZERO_CODE = 7


@dataclass(frozen=True)
class PackedNf4:
    """Linears [N_j, K] that share an input, their outputs one after the other: N = sum N_j.

    Rows are cut into blocks of 64 inputs, B = ceil(K / 64); the last is filled up with zeros.

    codes: uint8 [N, 32 * B]. Split-half order: byte j of a block holds the code of the block's
        input j in its high nibble and of input j + 32 in its low one. So each nibble of 32 bytes
        in a row is 32 inputs in a row: an operand of a matrix product as it stands.
    absmax: float32 [B, N], the scale of each output's block; one block's scales lie together,
        because a program reads them for many outputs at once.
    sizes: the N_j; sizes_table: the same for the kernels, int32 [J].

    Where K is no multiple of 64, bitsandbytes' blocks, which run on through the flattened weight,
    end within ours. absmax is then [B + 1, N]: in output n of a linear, the inputs of block b
    below 64 - n * K % 64 have scale [b, n], the others [b + 1, n].
    """

    codes: Tensor
    absmax: Tensor
    sizes_table: Tensor
    sizes: tuple[int, ...]
    in_features: int  # K

    @classmethod
    def pack(cls, weights: Sequence[Nf4Weight], device: torch.device) -> PackedNf4:
        """Weights [N_j, K] of one K."""
        sizes = tuple(weight.shape[0] for weight in weights)
        moved = [weight.to(device) for weight in weights]
        return cls(
            codes=torch.cat([_split_half(weight) for weight in moved]),
            absmax=torch.cat([_scales(weight) for weight in moved], dim=1),
            sizes_table=torch.tensor(sizes, dtype=torch.int32).to(device),
            sizes=sizes,
            in_features=weights[0].shape[1],
        )

    @property
    def out_features(self) -> int:
        """All N_j together."""
        return sum(self.sizes)

    @property
    def num_blocks(self) -> int:
        """B, blocks of a row."""
        return -(-self.in_features // BLOCK_LEN)

    @property
    def crossed(self) -> bool:
        """Whether a block of ours can have two scales."""
        return self.in_features % BLOCK_LEN != 0

    @property
    def sizes_divisor(self) -> int:
        """16 where it divides every N_j, else 1: what loads and stores may be as wide as."""
        return 16 if all(size % 16 == 0 for size in self.sizes) else 1


def _split_half(weight: Nf4Weight) -> Tensor:
    """uint8 [N, 32 * B]."""
    n, k = weight.shape
    pairs = weight.codes.reshape(-1)
    flat = torch.stack([pairs >> 4, pairs & 15], dim=1).reshape(-1)[: n * k]
    filled = F.pad(flat.view(n, k), (0, -k % BLOCK_LEN), value=ZERO_CODE)
    first, second = filled.view(n, -1, 2, HALF).unbind(2)
    return (first << 4 | second).reshape(n, -1)


def _scales(weight: Nf4Weight) -> Tensor:
    """float32 [B, N], or [B + 1, N] where K is no multiple of 64."""
    n, k = weight.shape
    if k % BLOCK_LEN == 0:
        return weight.absmax.view(n, -1).T.contiguous()
    first = torch.arange(n, device=weight.absmax.device) * k // BLOCK_LEN
    blocks = torch.arange(-(-k // BLOCK_LEN) + 1, device=weight.absmax.device)
    # what lies past the last block belongs to inputs that are not there
    index = (blocks[:, None] + first).clamp(max=weight.absmax.numel() - 1)
    return weight.absmax[index]
