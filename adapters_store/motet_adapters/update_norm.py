"""How large an adapter's update is beside the weight it is added to."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights

ABSURD_RATIO = 10.0
"""An update this many times the size of its weight leaves nothing of the base."""


class Update(NamedTuple):
    """One module's B A, by its root mean square."""

    rms: float
    module: str

    @classmethod
    def of(cls, module: str, a: Tensor, b: Tensor) -> "Update":
        """a [R, K], b [N, R] with the scale folded in, both float32.

        ||B A||_F^2 = <B^T B, A A^T>, which needs no N x K product.
        """
        square = ((b.t() @ b).double() * (a @ a.t()).double()).sum().clamp_min(0.0)
        return cls(math.sqrt(float(square) / (b.shape[0] * a.shape[1])), module)


def warnings_about(update: Update, base: BaseWeights) -> tuple[str, ...]:
    """A sentence if the update is absurd. Meant for an adapter's largest one: weights of one model
    are of one size, and reading all of them would take longer than the rest of an upload."""
    weight_rms = float(base.weight(update.module).square().mean(dtype=torch.float64).sqrt())
    if update.rms <= ABSURD_RATIO * weight_rms:
        return ()
    times = f"{update.rms / weight_rms:.0f} times" if weight_rms else "many times"
    return (
        f"The update of {update.module} is {times} as large as the weight it is added to. The "
        "adapter is served as it is; check its alpha, and whether the training has diverged.",
    )
