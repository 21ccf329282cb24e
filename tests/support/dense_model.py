"""A quantised base as a plain transformers model, for comparison."""

import torch
from motet.engine.base import QuantizedBase
from torch import Tensor, nn
from transformers import PreTrainedModel

_IDS = torch.arange(3, 27)[None]


def dense_model(base: QuantizedBase, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The base with dequantised nn.Linears in the places the engine fills with its own."""
    model = base.build_model(dtype, "eager")
    for path, weight in base.linears.items():
        bias = base.biases.get(path)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.dequantize(dtype), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        model.set_submodule(path, linear)
    return model


def logits(model: PreTrainedModel) -> Tensor:
    """[1, 24, V]: what the model makes of the same 24 tokens every time."""
    with torch.inference_mode():
        output: Tensor = model(input_ids=_IDS.to(model.device), use_cache=False).logits
    return output
