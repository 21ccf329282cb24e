"""An upload's tensors become an image: the one formula y = gain * (W x + B (A x)) + bias."""

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.dora import dora_gain
from motet_adapters.errors import AdapterRefused, AdapterTooLarge
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.image import Image, Layout, Target, views_into
from motet_adapters.matching import Match
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import SafetensorsFile
from motet_adapters.update_norm import Update, warnings_about


def lay_out(matches: list[Match], dtype: torch.dtype, max_image_bytes: int | None) -> Layout:
    """Places for every matched module, before any tensor is read. Raises AdapterTooLarge."""
    layout = Layout.of(((found.module, _target(found)) for found in matches), dtype)
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
    matches: list[Match],
    layout: Layout,
    base: BaseWeights,
    dtype: torch.dtype,
) -> tuple[Image, tuple[str, ...]]:
    """Read, check and lower every tensor, one module at a time; the image, and what to warn of.

    The scale is folded into B, which is stored transposed; DoRA's gain is computed in float32
    against `base.weight(module)`. Raises AdapterRefused for a value that is not finite, in the
    file or after lowering.
    """
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    views = views_into(buffer, layout.entries, dtype)
    largest: Update | None = None
    for found in matches:
        a = _finite(file.read(found.a).float(), found.a)
        b = _finite(file.read(found.b).float() * found.scale, found.b)
        update = Update.of(found.module, a, b)
        largest = update if largest is None else max(largest, update)
        a_view, bt_view, gain_view = views[found.module]
        _store(a_view, a, found.a)
        _store(bt_view, b.t(), found.b)
        if found.magnitude is not None and gain_view is not None:
            magnitude = _finite(file.read(found.magnitude).float(), found.magnitude)
            gain = dora_gain(base.weight(found.module), a, b, magnitude)
            _store(gain_view, gain, found.magnitude)
    warnings = () if largest is None else warnings_about(largest, base)
    return Image(digest, dtype, buffer, layout.entries), warnings


def _target(found: Match) -> Target:
    return Target(found.rank, found.in_features, found.out_features, found.magnitude is not None)


def _store(view: Tensor, value: Tensor, name: str) -> None:
    view.copy_(value)
    if not torch.isfinite(view).all():
        raise AdapterRefused(
            f"Tensor {quoted(name, 200)} leaves the range of the served number format "
            f"({str(view.dtype).removeprefix('torch.')}) once lowered. The adapter has diverged, "
            "or its magnitudes belong to another base.",
            WEIGHTS_FILE,
        )


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise AdapterRefused(
            f"Tensor {quoted(name, 200)} holds NaN or infinite values. The training has "
            "diverged; upload an earlier checkpoint.",
            WEIGHTS_FILE,
        )
    return tensor
