"""modules_to_save: whole weights of the embedding, the output head or norms, trained."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor


def saved_sites(
    names: Sequence[str],
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
    *,
    tie_weights: bool,
) -> Iterator[SitePlan]:
    """PEFT saves every module whose path ends in one of the names, as MODULE.weight.

    tie_weights: ensure_weight_tying, by which a trained embedding is the tied head too.
    """
    embedding, shape = base.embedding()
    head, head_shape, is_tied = base.head()
    paths = (*base.norms(), embedding, head)
    for name in names:
        if not any(path.endswith(name) for path in paths):
            raise AdapterRefused(
                f"modules_to_save names {quoted(name)}; of whole modules only the embedding, the "
                f"output head and norms are served ({embedding}, {head} and {len(paths) - 2} "
                "norms). Train it by target_modules instead.",
                "modules_to_save",
            )
    saved = {path for path in paths if path.endswith(tuple(names))} if names else set()
    for path in base.norms():
        if path in saved:
            yield norm_site(path, f"{KEY_PREFIX}{path}.weight", base)
    if embedding in saved:
        yield _embedding_site(embedding, shape)
    if head in saved or (embedding in saved and is_tied and tie_weights):
        # PEFT saves what is tied under either name or both.
        name = f"{KEY_PREFIX}{head}.weight"
        is_there = head in saved or name in tensors
        yield _head_site(head, head_shape, name if is_there else f"{KEY_PREFIX}{embedding}.weight")


def norm_site(path: str, name: str, base: BaseWeights) -> SitePlan:
    """A norm whose weight is the tensor `name` of the file."""
    size = base.norms()[path]
    return SitePlan(
        path, {name: (size,)}, {"weight": PartSpec((size,))}, lambda read: {"weight": read(name)}
    )


def _head_site(path: str, shape: tuple[int, int], name: str) -> SitePlan:
    return SitePlan(
        path, {name: shape}, {"weight": PartSpec(shape)}, lambda read: {"weight": read(name)}
    )


def _embedding_site(path: str, shape: tuple[int, int]) -> SitePlan:
    """Every row replaced."""
    name = f"{KEY_PREFIX}{path}.weight"
    parts = {"rows_index": PartSpec(shape[:1], torch.int64), "rows": PartSpec(shape)}

    def lower(read: Read) -> dict[str, Tensor]:
        return {"rows_index": torch.arange(shape[0]), "rows": read(name)}

    return SitePlan(path, {name: shape}, parts, lower)
