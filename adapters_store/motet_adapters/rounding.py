"""What was lowered, into its place: of the shape that was planned, rounded once, and finite."""

from collections.abc import Mapping

import torch
from torch import Tensor

from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import PartSpec
from motet_adapters.file_kinds import WEIGHTS_FILE


def require_parts(path: str, planned: Mapping[str, PartSpec], parts: Mapping[str, Tensor]) -> None:
    """A plan's promise to the layout; to break it is a defect of the family."""
    made = {name: tuple(part.shape) for name, part in parts.items()}
    shapes = {name: spec.shape for name, spec in planned.items()}
    if made != shapes:
        raise AssertionError(f"{path}: lowered {made}, planned {shapes}")


def store_part(view: Tensor, value: Tensor, part: str, path: str) -> None:
    """Copy `value` into the view of its place. Raises AdapterRefused if it is not finite there."""
    view.copy_(value)
    if view.is_floating_point() and not torch.isfinite(view).all():
        raise AdapterRefused(
            f"The tensors of {path} leave the range of the served number format "
            f"({str(view.dtype).removeprefix('torch.')}) once lowered (to {part}). The adapter has "
            "diverged, or its magnitudes belong to another base.",
            WEIGHTS_FILE,
        )
