"""Copies of the base's own weights in an upload: they must be just that."""

import torch

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import AdapterPlan, Read
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.names import quoted

_BF16_STEP = 2.0**-7
"""The base keeps its dense weights in bfloat16, whatever precision they were trained beside."""


def require_copies(plan: AdapterPlan, read: Read, base: BaseWeights) -> None:
    """PEFT saves the weights of embeddings beside adapters on them; trained they are not.

    Raises AdapterRefused for one that is another weight than the base's.
    """
    for name, path in plan.copies.items():
        if not torch.allclose(read(name), base.dense(path), rtol=_BF16_STEP, atol=1e-6):
            raise no_copy(name, path)


def no_copy(name: str, path: str) -> AdapterRefused:
    """Of a tensor that is named like the base's own weight of `path` and is not it."""
    return AdapterRefused(
        f"Tensor {quoted(name, 200)} is not the base's own weight of {path}: the vocabulary was "
        "resized, or the weight was trained. Train it by modules_to_save or some of its rows by "
        "trainable_token_indices, serve the base the adapter was trained on, or save with "
        "save_embedding_layers=False.",
        WEIGHTS_FILE,
    )
