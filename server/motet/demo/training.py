"""The demo base as PEFT trains it: plain linears that hold the weights Motet will run."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from motet.engine.base import Progress, QuantizedBase, open_base
from motet.engine.base.tokenizer_files import load_tokenizer
from motet.settings import Settings


def training_model(
    base: str | None = None,
    *,
    data_dir: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A transformers model to train adapters on, and its tokenizer.

    base: as `motet serve --base`; None is the demo base.
    data_dir: where the quantised base is kept; None is the data directory of `motet serve` in the
        same place and environment, so that both share it.
    dtype: of every weight.

    Every linear but the output layer holds its weight after a round trip through NF4, so an
    adapter (and DoRA's norm above all) is fitted to the weights that will serve it. No parameter
    asks for a gradient. Raises UnsupportedModel for a base that cannot be opened.
    """
    cache_dir = data_dir or Settings.load().data_dir
    opened = open_base(base, cache_dir=cache_dir, progress=progress)
    model = plain_model(opened, dtype)
    model.name_or_path = opened.name  # what PEFT writes down as the adapter's base
    return model, load_tokenizer(opened.directory)


def plain_model(
    base: QuantizedBase, dtype: torch.dtype, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """The base as a transformers model in eval mode, its linears dequantised."""
    model = base.build_model(dtype, attn_implementation)
    for path, (out_features, in_features) in base.shapes.items():
        bias = base.biases.get(path)
        linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(base.weight(path).to(dtype), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        model.set_submodule(path, linear)
    return model.eval()
