"""A quantised base as transformers runs it, for comparison: plain linears, eager attention.

bitsandbytes' own modules are not used: on some CPUs they repack their weight at the first forward
and later dequantise to something else. A plain linear that holds the dequantised weight cannot.
"""

import torch
from motet.demo.training import plain_model
from motet.engine.base import QuantizedBase
from torch import Tensor
from transformers import PreTrainedModel

_IDS = torch.arange(3, 27)[None]


def dense_model(base: QuantizedBase, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The base with dequantised nn.Linears in the places the engine fills with its own."""
    return plain_model(base, dtype, attn_implementation="eager")


def logits(model: PreTrainedModel) -> Tensor:
    """[1, 24, V]: what the model makes of the same 24 tokens every time."""
    with torch.inference_mode():
        output: Tensor = model(input_ids=_IDS.to(model.device), use_cache=False).logits
    return output
