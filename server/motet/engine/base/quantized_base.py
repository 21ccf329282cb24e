"""A quantised base on disk, opened."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from motet_kernels.nf4 import Nf4Weight
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from motet.engine.base.end_tokens import read_end_tokens
from motet.engine.base.model_parts import ModelParts
from motet.engine.base.model_shell import build_shell, fill_shell
from motet.engine.base.original_weights import OriginalWeights
from motet.engine.base.safe_config import build_config
from motet.engine.base.saving import ABSMAX, CODES, DENSE_FILE, LINEARS_FILE
from motet.engine.base.tensor_file import TensorFile


@dataclass(frozen=True)
class QuantizedBase:
    """One base model, its linears in NF4 and everything else in bf16, mapped from its files.

    Serves the adapter store as its view of the model: `motet_adapters.BaseWeights`. Safe to read
    from several threads.
    """

    name: str
    directory: Path
    fingerprint: str
    """sha256 hex over the configuration and every tensor: equal for equal models only."""
    config: PreTrainedConfig
    shapes: Mapping[str, tuple[int, int]]
    """(N, K) of every quantised linear, by module path, in model order."""
    linears: Mapping[str, Nf4Weight]
    """The weights of those. Read when asked for; on the CPU, read-only."""
    biases: Mapping[str, Tensor]
    """[N], for those of `linears` that have one."""
    tied: Mapping[str, str]
    """Names of parameters that are another parameter under a second name."""
    originals: OriginalWeights
    input_groups: tuple[tuple[str, ...], ...] = ()
    """Paths of linears that are fed the same tensor, once a survey has found them out."""

    def modules(self) -> Sequence[str]:
        """Paths of the linears an adapter may change, in model order."""
        return tuple(self.shapes)

    def shape(self, module: str) -> tuple[int, int]:
        """(N, K) of a linear. KeyError for a path that is not among `modules()`."""
        return self.shapes[module]

    def weight(self, module: str) -> Tensor:
        """[N, K] float32: the weight that really runs. KeyError for an unknown path."""
        return self.linears[module].dequantize(torch.float32)

    def original(self, module: str) -> Tensor | None:
        """[N, K] float32: the weight before it was quantised; None where it cannot be had.

        Read from the source again, which may take long.
        """
        return self.originals.weight(module)

    def bias(self, module: str) -> Tensor | None:
        """[N] float32 of a linear; None: it has none."""
        bias = self.biases.get(module)
        return None if bias is None else bias.float()

    def shares_input(self, module: str) -> bool:
        """Whether other linears are computed together with this one, from the same input."""
        return any(module in group and len(group) > 1 for group in self.input_groups)

    @cached_property
    def parts(self) -> ModelParts:
        """What the model has besides its linears."""
        return ModelParts.of(
            build_shell(copy.deepcopy(self.config), torch.bfloat16, "eager", self.shapes)
        )

    @property
    def hidden_size(self) -> int:
        return self.parts.hidden_size

    def layers(self) -> Sequence[str]:
        return self.parts.layers

    def norms(self) -> Mapping[str, int]:
        return self.parts.norms

    def embedding(self) -> tuple[str, tuple[int, int]]:
        embedding = self.parts.embedding
        return embedding.path, (embedding.rows, embedding.columns)

    def head(self) -> tuple[str, tuple[int, int], bool]:
        head = self.parts.head
        return head.path, (head.rows, head.columns), self.parts.is_tied

    def experts(self) -> Mapping[str, Mapping[str, tuple[int, int, int]]]:
        """Path of a module of stacked experts -> parameter -> (E, N, K)."""
        return self.parts.experts

    def attention_shape(self) -> tuple[int, int, int]:
        """(layers, key/value heads, head size)."""
        parts = self.parts
        return len(parts.layers), parts.num_kv_heads, parts.head_size

    def dense(self, path: str) -> Tensor:
        """float32: the weight of an embedding, the output head or a norm. KeyError if unknown."""
        name = f"{path}.weight"
        return self._dense[self.tied.get(name, name)].float()

    @cached_property
    def _dense(self) -> TensorFile:
        return TensorFile(self.directory / DENSE_FILE)

    def build_model(self, dtype: torch.dtype, attn_implementation: str) -> PreTrainedModel:
        """The transformers model, in eval mode and without gradients, on the CPU.

        Everything but the quantised linears holds its weights in `dtype` (what transformers keeps
        in float32 stays so). In the linears' places stand modules with no parameters, which the
        caller replaces; the weights and biases that belong there are `linears` and `biases`.
        """
        model = build_shell(copy.deepcopy(self.config), dtype, attn_implementation, self.shapes)
        fill_shell(model, TensorFile(self.directory / DENSE_FILE), dtype, self.tied)
        if model.generation_config is not None:
            model.generation_config.eos_token_id = read_end_tokens(self.directory) or None
        return model


class _LinearFile(Mapping[str, Nf4Weight]):
    """The quantised linears of one file, each read when it is asked for."""

    def __init__(self, file: Path, shapes: Mapping[str, tuple[int, int]]) -> None:
        self._shapes = shapes
        self._tensors = TensorFile(file)

    def __getitem__(self, path: str) -> Nf4Weight:
        shape = self._shapes[path]
        return Nf4Weight(self._tensors[path + CODES], self._tensors[path + ABSMAX], shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class _BiasFile(Mapping[str, Tensor]):
    """The biases of the quantised linears, among the dense tensors of one file."""

    def __init__(self, file: Path, linears: Mapping[str, object]) -> None:
        self._tensors = TensorFile(file)
        self._paths = tuple(path for path in linears if f"{path}.bias" in self._tensors)

    def __getitem__(self, path: str) -> Tensor:
        if path not in self._paths:
            raise KeyError(path)
        return self._tensors[f"{path}.bias"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def read_base(
    directory: Path, name: str, manifest: Mapping[str, Any], originals: OriginalWeights
) -> QuantizedBase:
    """Opens what `save_base` wrote. Nothing is read but headers and the configuration."""
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    shapes = {path: (rows, columns) for path, (rows, columns) in manifest["linears"].items()}
    return QuantizedBase(
        name=name,
        directory=directory,
        fingerprint=manifest["fingerprint"],
        config=build_config(raw),
        shapes=shapes,
        linears=_LinearFile(directory / LINEARS_FILE, shapes),
        biases=_BiasFile(directory / DENSE_FILE, shapes),
        tied=dict(manifest["tied"]),
        originals=originals,
    )
