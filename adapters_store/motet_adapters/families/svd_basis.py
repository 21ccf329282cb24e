"""The singular vectors of a linear's original weight, as a basis that tenants share."""

from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.cores import columns_part, diagonal_columns
from motet_adapters.families.plan import BasisPlan, PartSpec, Read

VECTORS_IN, VECTORS_OUT, VALUES, DIAGONAL = "a", "bt", "values", "diagonal"


def svd_basis(base: BaseWeights, module: str) -> BasisPlan:
    """V^T [R, K] as "a", U^T [R, N] as "bt", the singular values [R] as "values", a diagonal core's
    columns [R, 1] as "diagonal"; R = min(N, K)."""
    n, k = base.shape(module)
    rank = min(n, k)
    return BasisPlan(
        {
            VECTORS_IN: PartSpec((rank, k)),
            VECTORS_OUT: PartSpec((rank, n)),
            VALUES: PartSpec((rank,), torch.float32),
            DIAGONAL: columns_part(rank, 1),
        },
        partial(_make, base, module),
        f"singular vectors of {module}",
    )


def _make(base: BaseWeights, module: str, _read: Read) -> dict[str, Tensor]:
    weight = base.original(module)
    if weight is None:
        raise AdapterRefused(
            f"The adapter is made over the singular vectors of the original weights, and of "
            f"{module} only the quantised ones are here. Serve the base from its unquantised "
            "checkpoint, or upload the adapter converted to LoRA.",
            "peft_type",
        )
    u, values, vt = torch.linalg.svd(weight.float(), full_matrices=False)
    diagonal = diagonal_columns(len(values))
    return {VECTORS_IN: vt, VECTORS_OUT: u.t(), VALUES: values, DIAGONAL: diagonal}
