"""An upload's tensors become an image, one site of its plan at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.bases import SITE, Bases, basis_layout
from motet_adapters.copies import require_copies
from motet_adapters.errors import AdapterRefused, AdapterTooLarge
from motet_adapters.families.plan import BASIS_PREFIX, AdapterPlan, Read
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.image import Entry, Image, Layout, views_into
from motet_adapters.names import quoted
from motet_adapters.rounding import require_parts, store_part
from motet_adapters.safetensors_file import SafetensorsFile
from motet_adapters.truncation import truncated
from motet_adapters.update_norm import Update, warnings_about

Pause = Callable[[], None]
"""Called between two sites; may wait, to leave the processor to what is more urgent."""


def no_pause() -> None:
    """On to the next at once."""


def lay_out(plan: AdapterPlan, dtype: torch.dtype, max_image_bytes: int | None) -> Layout:
    """Places for every part, before any tensor is read. Raises AdapterTooLarge."""
    layout = Layout.of(plan.sites, dtype)
    shared = sum(basis_layout(basis, dtype).num_bytes for basis in plan.bases.values())
    if max_image_bytes is not None and layout.num_bytes + shared > max_image_bytes:
        needed = f"{layout.num_bytes} bytes"
        if shared:
            needed += f", and {shared} bytes for what it shares with others of its kind,"
        raise AdapterTooLarge(
            f"The adapter needs {needed} on the device, but the budget for all "
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
    bases: Bases,
    pause: Pause = no_pause,
) -> tuple[Image, tuple[str, ...], Mapping[str, float]]:
    """Read, check and lower every tensor, one site at a time; the image, what to warn of, and what
    was lost: by path, the relative error of an update that was cut to its rank.

    What is computed is computed in float32 and rounded once, to the dtype of its part. Raises
    AdapterRefused for a value that is not finite, in the file or after lowering.
    """
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    views = views_into(
        buffer, {path: entry._replace(bases={}) for path, entry in layout.entries.items()}
    )
    shared = {name: bases.make(basis, _reader(file, {})) for name, basis in plan.bases.items()}
    read = _reader(file, shared)
    require_copies(plan, read, base)
    linears = frozenset(base.modules())
    largest: Update | None = None
    lost: dict[str, float] = {}
    for site in plan.sites:
        pause()
        parts = site.lower(read)
        if site.update is not None:
            a, b, lost[site.path] = truncated(site.update(read), site.parts["a"].shape[0])
            parts = {**parts, "a": a, "bt": b.t()}
        require_parts(site.path, site.parts, parts)
        for name, view in views[site.path].tensors.items():
            store_part(view, parts[name], name, site.path)
        is_product = parts.keys() & {"a", "bt", "core_values"} == {"a", "bt"}
        if site.path in linears and is_product and site.activation == "identity":
            update = Update.of(site.path, parts["a"], parts["bt"].t())
            largest = update if largest is None else max(largest, update)
    warnings = () if largest is None else warnings_about(largest, base)
    image = Image(
        digest,
        dtype,
        buffer,
        {path: _resolved(entry, shared) for path, entry in layout.entries.items()},
        {basis.digest: basis for basis in shared.values()},
    )
    return image, (*plan.warnings, *warnings), lost


def _resolved(entry: Entry, shared: Mapping[str, Image]) -> Entry:
    """With the digests of bases in place of a plan's names for them."""
    bases = {part: (shared[name].digest, tensor) for part, (name, tensor) in entry.bases.items()}
    return entry._replace(bases=bases)


def _reader(file: SafetensorsFile, shared: Mapping[str, Image]) -> Read:
    def read(name: str) -> Tensor:
        if name.startswith(BASIS_PREFIX):
            basis, _, part = name.removeprefix(BASIS_PREFIX).rpartition("/")
            return shared[basis].views(shared[basis].buffer)[SITE].tensors[part].float()
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
