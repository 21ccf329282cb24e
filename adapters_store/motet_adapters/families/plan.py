"""What a family makes of an upload: per place of the model, what it wants and what that becomes.

A plan is made from the config and the header of the file alone. Tensors are read one site at a
time, after the plan has been checked against the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from motet_kernels import Activation
from torch import Tensor

Read = Callable[[str], Tensor]
"""A tensor of the file by name, checked finite: float32, or int64 where integers are stored.

A site may also read what `basis_tensor` names: a tensor of a basis of its plan, in float32.
"""

Lower = Callable[[Read], Mapping[str, Tensor]]
"""A site's parts by name, float32 or integers."""

Basis = tuple[str, str]
"""A shared basis, and the name of one of its tensors. In a plan the basis is a key of
`AdapterPlan.bases`, in an image its digest."""

BASIS_PREFIX = "basis/"


def basis_tensor(basis: str, tensor: str) -> str:
    """The name by which a site reads a tensor of one of its plan's bases."""
    return f"{BASIS_PREFIX}{basis}/{tensor}"


class PartSpec(NamedTuple):
    """One tensor of an image. dtype None: the one that adapters are served in."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class SitePlan:
    """One adapted place of the model.

    The parts of a linear are the fields of `motet_kernels.LowRank`, by name: "a" [R, K], "bt"
    [R, N] with the scale folded in, "gain" [N], "bias" [N], ...; "core_values" and "core_columns"
    for the core. Those of other places are listed in docs/architecture.md.
    """

    path: str
    tensors: Mapping[str, tuple[int, ...]]
    """Names in the file and the exact shape that each must have. Sites may share tensors."""
    parts: Mapping[str, PartSpec]
    """What the image will hold."""
    lower: Lower
    """Makes exactly the `parts`, in float32 maths. Reads nothing but `tensors`."""
    activation: Activation = "identity"
    bases: Mapping[str, Basis] = field(default_factory=dict)
    """Parts that are not the image's own but of a basis that tenants share."""
    integers: frozenset[str] = frozenset()
    """Those of `tensors` that hold integers. All others must be floating point."""
    update: Callable[[Read], Tensor] | None = None
    """Lossy: [N, K] float32, which is cut to the rank of the parts "a" and "bt". `lower` makes the
    other parts then."""

    @property
    def rank(self) -> int | None:
        """Of what runs per token at this site; None where there is no product of two factors."""
        if "a" in self.parts:
            return self.parts["a"].shape[0]
        if "at" in self.parts:
            return self.parts["at"].shape[1]
        of_experts = [part.shape[1] for name, part in self.parts.items() if name.endswith(".a")]
        return max(of_experts, default=None)


@dataclass(frozen=True)
class BasisPlan:
    """Tensors that all adapters made over them share: made once, in memory once.

    With a recipe, two plans of one base mean the same basis when the recipe is the same, and it is
    only made when there is none yet. Without, when `make` returns the same.
    """

    parts: Mapping[str, PartSpec]
    make: Lower
    """Makes exactly the `parts`. Reads nothing but `tensors`."""
    recipe: str | None = None
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """As in `SitePlan`."""


@dataclass(frozen=True)
class AdapterPlan:
    """All of an upload."""

    kind: str
    sites: tuple[SitePlan, ...]
    bases: Mapping[str, BasisPlan] = field(default_factory=dict)
    """By the name that the sites' `bases` know them by."""
    ignored: frozenset[str] = frozenset()
    """Names of tensors in the file that say nothing about the adapter."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that must be the base's own weight, by the path of that (see `BaseWeights.dense`)."""
    num_virtual_tokens: int = 0
    """Positions that the adapter puts before every prompt."""
    invocation_tokens: tuple[int, ...] = ()
    """aLoRA: the adapter is active from this sequence on. Empty: from the first token."""
    warnings: tuple[str, ...] = ()
    """Sentences for the uploader."""
