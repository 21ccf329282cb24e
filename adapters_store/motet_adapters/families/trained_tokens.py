"""Trained token embeddings: rows of the embedding replaced, and of the head where they are tied."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import quoted

_KEY = "trainable_token_indices"
_DELTA = "token_adapter.trainable_tokens_delta"


def token_sites(fields: Fields, base: BaseWeights) -> Iterator[SitePlan]:
    """trainable_token_indices: a list for the embedding, or an object of lists by module name.

    The delta [n, D] holds the rows themselves, in the order of the indices.
    """
    embedding, (vocabulary, _) = base.embedding()
    head, _, is_tied = base.head()
    by_path = _indices(fields, (embedding, head), vocabulary - 1)
    for path, indices in by_path.items():
        if path == head and is_tied and by_path.get(embedding) == indices:
            continue  # PEFT lets the tied head share the embedding's rows, and saves them once
        name = f"{KEY_PREFIX}{path}.{_DELTA}"
        yield rows_site(path, name, indices, base)
        if path == embedding and is_tied and by_path.get(head, indices) == indices:
            yield rows_site(head, name, indices, base)


def rows_site(path: str, name: str, indices: Sequence[int], base: BaseWeights) -> SitePlan:
    """Rows `indices` of the matrix at `path` are those of the tensor `name`, in that order."""
    if len(set(indices)) != len(indices):
        raise AdapterRefused(f"{_KEY} names a token twice. Keep one row of each.", _KEY)
    shape = base.embedding()[1] if path == base.embedding()[0] else base.head()[1]
    columns = shape[1]
    order = sorted(range(len(indices)), key=indices.__getitem__)
    parts = {
        "rows_index": PartSpec((len(indices),), torch.int64),
        "rows": PartSpec((len(indices), columns)),
    }

    def lower(read: Read) -> Mapping[str, Tensor]:
        return {
            "rows_index": torch.tensor([indices[place] for place in order]),
            "rows": read(name)[order],
        }

    return SitePlan(path, {name: (len(indices), columns)}, parts, lower)


def _indices(fields: Fields, paths: tuple[str, str], highest: int) -> dict[str, tuple[int, ...]]:
    """Token ids by the path of their module."""
    value = fields.get(_KEY)
    if not value:
        return {}
    if not isinstance(value, dict):
        return {paths[0]: fields.numbers(_KEY, highest)}
    found = {}
    for name, indices in value.items():
        path = next((path for path in paths if path == name or path.endswith(f".{name}")), None)
        if path is None:
            raise AdapterRefused(
                f"{_KEY} names {quoted(name)}; tokens are trained in {paths[0]} or {paths[1]}.",
                _KEY,
            )
        if not isinstance(indices, list) or not indices:
            raise AdapterRefused(f"{_KEY} gives {quoted(name)} no list of token ids.", _KEY)
        found[path] = tuple(fields.integer(index, _KEY, 0, highest) for index in indices)
    return found
