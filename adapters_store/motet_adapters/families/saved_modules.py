"""modules_to_save: whole weights of the embedding, the output head or norms, trained."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import quoted


def saved_sites(
    names: Sequence[str], base: BaseWeights, *, tie_weights: bool
) -> Iterator[SitePlan]:
    """PEFT saves every module whose path ends in one of the names, as MODULE.weight.

    tie_weights: ensure_weight_tying, by which a trained embedding is the tied head too.
    """
    embedding, shape = base.embedding()
    head, head_shape, is_tied = base.head()
    for name in names:
        norms = [path for path in base.norms() if path.endswith(name)]
        if not norms and not embedding.endswith(name) and not head.endswith(name):
            raise AdapterRefused(
                f"modules_to_save names {quoted(name)}; of whole modules only the embedding, the "
                f"output head and norms are served ({embedding}, {head} and {len(base.norms())} "
                "norms). Train it by target_modules instead.",
                "modules_to_save",
            )
        for path in norms:
            yield norm_site(path, f"{KEY_PREFIX}{path}.weight", base)
        if embedding.endswith(name):
            yield _embedding_site(embedding, shape)
            if is_tied and tie_weights and not any(head.endswith(other) for other in names):
                yield _head_site(head, head_shape, f"{KEY_PREFIX}{embedding}.weight")
        if head.endswith(name):
            yield _head_site(head, head_shape, f"{KEY_PREFIX}{head}.weight")


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
