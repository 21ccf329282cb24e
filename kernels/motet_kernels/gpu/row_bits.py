"""Whether a row of a linear has the same bits for every number of rows, tried on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from motet_kernels.lowrank import SlotTable
from motet_kernels.nf4 import BLOCK_LEN, Nf4Weight
from motet_kernels.ops import Ops
from motet_kernels.routing import Routing

# Around every size of a tile that a table may have.
COUNTS = (1, 15, 16, 17, 32, 33, 64, 65, 129)


def keeps_row_bits(
    ops: Ops,
    device: torch.device,
    dtype: torch.dtype,
    *,
    in_features: int,
    outputs: int,
    counts: Sequence[int] = COUNTS,
) -> bool:
    """On sums that are zero but for what rounding leaves of them, which the order of a sum decides.

    in_features: an even multiple of 64.
    """
    half = in_features // 2
    generator = torch.Generator().manual_seed(outputs)
    order = torch.randperm(half, generator=generator)
    codes = torch.randint(16, (outputs, half), generator=generator, dtype=torch.uint8)
    codes = torch.cat([codes, codes[:, order]], dim=1).reshape(-1, 2)
    packed = (codes[:, 0] << 4 | codes[:, 1]).unsqueeze(1)
    scales = torch.full((outputs * in_features // BLOCK_LEN,), 0.7)
    weight = Nf4Weight(packed, scales, (outputs, in_features))
    x = torch.randn(max(counts), half, generator=generator).to(dtype)
    x = torch.cat([x, -x[:, order]], dim=1).to(device)
    group = ops.pack([weight.to(device)], [None], dtype, device)
    table = SlotTable(1, in_features, outputs, device)
    results = [
        ops.adapted_linear(x[:count], group, [table], Routing.from_slots([0] * count))[0]
        for count in counts
    ]
    together = max(results, key=len)
    return all(torch.equal(result, together[: len(result)]) for result in results)
