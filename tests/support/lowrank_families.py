"""An adapter for each optional part of a LowRank, alone, and for parts as families combine them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from motet_kernels import ACTIVATIONS, Core, LowRank
from torch import Tensor

Normal = Callable[..., Tensor]  # of a shape, in the adapters' dtype

BASIS_RANK = 24


def lowranks(
    k: int, n: int, dtype: torch.dtype, *, alone: bool, seed: int
) -> Mapping[str, LowRank]:
    """Adapters on a linear [n, k] by what they show; those that scale its input only if `alone`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def around_one(size: int) -> Tensor:
        return (torch.rand(size, generator=generator) + 0.5).to(dtype)

    def lora(rank: int) -> LowRank:
        return LowRank(normal(rank, k) / k**0.5, normal(rank, n))

    def sparse(rank: int, width: int) -> Core:
        columns = torch.randint(max(1, rank), (rank, width), generator=generator)
        values = normal(rank, width)
        values[::3, -1:] = 0  # an entry that is not used
        return Core(values, columns.int())

    def diagonal(rank: int) -> Core:
        return Core(normal(rank, 1), torch.arange(rank, dtype=torch.int32)[:, None])

    def dense(rank: int) -> Core:
        columns = torch.arange(rank, dtype=torch.int32).expand(rank, -1).contiguous()
        return Core(normal(rank, rank), columns)

    nothing, basis = lora(0), lora(BASIS_RANK)
    found = {
        "nothing": nothing,
        "gain": nothing._replace(gain=around_one(n)),
        "bias": nothing._replace(bias=normal(n)),
        "parts of rank 0": nothing._replace(
            core=sparse(0, 0), inner_bias=normal(0), activation="gelu", delta_gain=around_one(n)
        ),
        "low rank": lora(5),
        "DoRA": lora(8)._replace(gain=around_one(n)),
        "VeRA": basis._replace(core=diagonal(BASIS_RANK), delta_gain=around_one(n)),
        "another VeRA on the same basis": basis._replace(
            core=diagonal(BASIS_RANK), delta_gain=around_one(n)
        ),
        "sparse core": basis._replace(core=sparse(BASIS_RANK, 3)),
        "sparse core, wide": basis._replace(core=sparse(BASIS_RANK, 19)),
        "dense core": lora(7)._replace(core=dense(7)),
        "dense core, wide": lora(33)._replace(core=dense(33)),
        "inner bias": lora(8)._replace(inner_bias=normal(8)),
        "delta_gain": lora(9)._replace(delta_gain=around_one(n)),
        "delta_gain and gain": lora(2)._replace(gain=around_one(n), delta_gain=around_one(n)),
        "Houlsby": lora(16)._replace(inner_bias=normal(16), activation="relu", bias=normal(n)),
    }
    for activation in ACTIVATIONS:
        found[activation] = lora(6)._replace(activation=activation)
    found["all but in_gain"] = _everything(lora(33), sparse(33, 5), normal, around_one)
    if alone:
        found["in_gain"] = nothing._replace(in_gain=around_one(k))
        found["in_gain and low rank"] = lora(4)._replace(in_gain=around_one(k))
        found["everything"] = found["all but in_gain"]._replace(in_gain=around_one(k))
    return found


def _everything(lora: LowRank, core: Core, normal: Normal, around_one: Normal) -> LowRank:
    n = lora.bt.shape[1]
    return lora._replace(
        gain=around_one(n),
        bias=normal(n),
        core=core,
        inner_bias=normal(lora.rank),
        activation="gelu_new",
        delta_gain=around_one(n),
    )
