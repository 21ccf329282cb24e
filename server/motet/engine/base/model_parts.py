"""What a model has besides its linears that an adapter may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class DenseShape:
    """An unquantised matrix: an embedding [V, D] or the output head [V, K]."""

    path: str
    rows: int
    columns: int


@dataclass(frozen=True)
class ModelParts:
    """Paths and sizes, read off a model whose weights need not be there."""

    embedding: DenseShape
    head: DenseShape
    is_tied: bool  # whether the head's weight is the embedding's
    norms: Mapping[str, int]  # path -> size, in model order
    layers: tuple[str, ...]  # paths of the decoder layers, in model order
    experts: Mapping[str, Mapping[str, tuple[int, int, int]]]
    """Path -> parameter -> (E, N, K), of experts and, as if one expert each, of their routers."""
    hidden_size: int
    num_kv_heads: int
    head_size: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelParts:
        config = model.config.get_text_config()
        paths = {module: path for path, module in model.named_modules()}
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        return cls(
            embedding=DenseShape(paths[embedding], *embedding.weight.shape),
            head=DenseShape(paths[head], *head.weight.shape),
            is_tied=bool(config.tie_word_embeddings),
            norms=dict(_norms(model)),
            layers=tuple(_layers(model)),
            experts={**dict(_experts(model)), **routers(model)},
            hidden_size=config.hidden_size,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_size=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
        )


def _norms(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in model.named_modules():
        weights = dict(module.named_parameters())
        if "norm" in type(module).__name__.lower() and set(weights) == {"weight"}:
            yield path, weights["weight"].numel()


def _experts(model: nn.Module) -> Iterator[tuple[str, dict[str, tuple[int, int, int]]]]:
    """Modules whose experts' weights are stacked, [E, N, K] or, transposed, [E, K, N]."""
    for path, module in model.named_modules():
        is_transposed = getattr(module, "is_transposed", None)
        if is_transposed is not None:
            shapes = {
                name: tuple(weight.shape)
                for name, weight in module.named_parameters(recurse=False)
                if weight.dim() == 3
            }
            yield (
                path,
                {
                    name: (count, columns, rows) if is_transposed else (count, rows, columns)
                    for name, (count, rows, columns) in shapes.items()
                },
            )


def routers(model: nn.Module) -> dict[str, dict[str, tuple[int, int, int]]]:
    """The module beside each module of experts that has their number of rows for weight."""
    found = {}
    for path, shapes in _experts(model):
        count = next(iter(shapes.values()))[0]
        parent = path.rpartition(".")[0]
        for name, module in model.get_submodule(parent).named_children():
            weight = dict(module.named_parameters(recurse=False)).get("weight")
            if weight is None or weight.dim() != 2 or isinstance(module, nn.Linear):
                continue
            if len(weight) == count:
                found[f"{parent}.{name}"] = {"weight": (1, *weight.shape)}
    return found


def _layers(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if isinstance(getattr(getattr(module, "self_attn", None), "layer_idx", None), int):
            yield path
