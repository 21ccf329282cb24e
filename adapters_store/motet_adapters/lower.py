"""An upload's tensors become an image, one site of its plan at a time."""

from collections.abc import Mapping

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused, AdapterTooLarge
from motet_adapters.families.plan import AdapterPlan, Read, SitePlan
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.image import Image, Layout, views_into
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import SafetensorsFile
from motet_adapters.update_norm import Update, warnings_about


def lay_out(plan: AdapterPlan, dtype: torch.dtype, max_image_bytes: int | None) -> Layout:
    """Places for every part, before any tensor is read. Raises AdapterTooLarge."""
    layout = Layout.of(plan.sites, dtype)
    if max_image_bytes is not None and layout.num_bytes > max_image_bytes:
        raise AdapterTooLarge(
            f"The adapter needs {layout.num_bytes} bytes on the device, but the budget for all "
            f"adapters is {max_image_bytes} bytes. Train it with a smaller rank or fewer targets, "
            "or ask for a larger budget.",
            WEIGHTS_FILE,
        )
    return layout


def lower(
    digest: str,
    file: SafetensorsFile,
    plan: AdapterPlan,
    layout: Layout,
    base: BaseWeights,
    dtype: torch.dtype,
) -> tuple[Image, tuple[str, ...]]:
    """Read, check and lower every tensor, one site at a time; the image, and what to warn of.

    What is computed is computed in float32 and rounded once, to the dtype of its part. Raises
    AdapterRefused for a value that is not finite, in the file or after lowering.
    """
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    views = views_into(
        buffer, {path: entry._replace(bases={}) for path, entry in layout.entries.items()}
    )
    read = _reader(file)
    linears = frozenset(base.modules())
    largest: Update | None = None
    for site in plan.sites:
        parts = site.lower(read)
        _require_parts(site, parts)
        for name, view in views[site.path].tensors.items():
            _store(view, parts[name], name, site.path)
        if site.path in linears and parts.keys() & {"a", "bt", "core_values"} == {"a", "bt"}:
            update = Update.of(site.path, parts["a"], parts["bt"].t())
            largest = update if largest is None else max(largest, update)
    warnings = () if largest is None else warnings_about(largest, base)
    return Image(digest, dtype, buffer, layout.entries), (*plan.warnings, *warnings)


def _reader(file: SafetensorsFile) -> Read:
    def read(name: str) -> Tensor:
        stored = file.read(name)
        if not stored.is_floating_point():
            return stored.long()
        tensor = stored.float()
        if not torch.isfinite(tensor).all():
            raise AdapterRefused(
                f"Tensor {quoted(name, 200)} holds NaN or infinite values. The training has "
                "diverged; upload an earlier checkpoint.",
                WEIGHTS_FILE,
            )
        return tensor

    return read


def _require_parts(site: SitePlan, parts: Mapping[str, Tensor]) -> None:
    """A plan's promise to the layout; to break it is a defect of the family."""
    made = {name: tuple(part.shape) for name, part in parts.items()}
    planned = {name: spec.shape for name, spec in site.parts.items()}
    if made != planned:
        raise AssertionError(f"{site.path}: lowered {made}, planned {planned}")


def _store(view: Tensor, value: Tensor, part: str, path: str) -> None:
    view.copy_(value)
    if view.is_floating_point() and not torch.isfinite(view).all():
        raise AdapterRefused(
            f"The tensors of {path} leave the range of the served number format "
            f"({str(view.dtype).removeprefix('torch.')}) once lowered (to {part}). The adapter has "
            "diverged, or its magnitudes belong to another base.",
            WEIGHTS_FILE,
        )
