"""From a loaded checkpoint to NF4 linears and everything else."""

from collections.abc import Iterator

import bitsandbytes
import torch
from bitsandbytes.functional import QuantState, dequantize_blockwise
from motet_kernels.nf4 import Nf4Weight
from torch import Tensor, nn
from transformers import PreTrainedModel

from motet.engine.base.progress import Progress
from motet.errors import UnsupportedModel

_BLOCK = 64


def quantize_linears(
    model: PreTrainedModel, *, double_quant: bool, progress: Progress
) -> dict[str, Nf4Weight]:
    """Takes every linear's weight out of `model` as NF4, in model order, the output head excepted.

    A weight bitsandbytes already quantised is taken over as it is. What is taken leaves a meta
    tensor behind, so memory falls as the work goes on. A bitsandbytes module is never run: its
    first forward on a CPU would permute the weight in place.
    """
    _dequantize_head(model)
    linears = list(_linears(model))
    if not linears:
        raise UnsupportedModel(
            f"{type(model).__name__} has no plain linear layers to quantise. Choose another base."
        )
    weights: dict[str, Nf4Weight] = {}
    for number, (path, module) in enumerate(linears):
        progress(f"Quantising {path}", number / len(linears))
        weights[path] = _nf4(path, module, double_quant)
        module.weight = nn.Parameter(
            torch.empty(weights[path].shape, device="meta"), requires_grad=False
        )
    return weights


def _linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    head = model.get_output_embeddings()
    for path, module in model.named_modules():
        # A subclass may compute something else in its forward, so it stays as it is.
        plain = type(module) is nn.Linear or isinstance(module, bitsandbytes.nn.Linear4bit)
        if plain and module is not head:
            yield path, module


def _nf4(path: str, module: nn.Linear, double_quant: bool) -> Nf4Weight:
    if isinstance(module.weight, bitsandbytes.nn.Params4bit):
        weight = _taken_over(path, module.weight)
    else:
        weight = Nf4Weight.quantize(module.weight.detach(), double_quant=double_quant)
    if not bool(torch.isfinite(weight.absmax).all()):
        raise UnsupportedModel(
            f"The weight of {path} holds NaN or infinity. Fetch the checkpoint again."
        )
    return weight


def _taken_over(path: str, weight: bitsandbytes.nn.Params4bit) -> Nf4Weight:
    """The codes bit for bit; a nested absmax resolved as bitsandbytes' dequantiser does."""
    state: QuantState = weight.quant_state
    if state.quant_type != "nf4" or state.blocksize != _BLOCK:
        raise UnsupportedModel(
            f"{path} is quantised to {state.quant_type} in blocks of {state.blocksize}. Motet "
            f"serves nf4 in blocks of {_BLOCK}: give the unquantised checkpoint."
        )
    absmax: Tensor = state.absmax
    if state.nested:
        absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
    rows, columns = state.shape
    codes = weight.data.contiguous().view(torch.uint8).reshape(-1, 1)
    return Nf4Weight(codes, absmax.float(), (rows, columns))


def _dequantize_head(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    if not isinstance(head, bitsandbytes.nn.Linear4bit):
        return
    dense = nn.Linear(head.in_features, head.out_features, head.bias is not None, device="meta")
    weight = _taken_over("the output head", head.weight).dequantize(torch.bfloat16)
    dense.weight = nn.Parameter(weight, requires_grad=False)
    dense.bias = head.bias
    model.set_output_embeddings(dense)
