"""A transformers model built without its big weights, then filled from files."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


class AbsentLinear(nn.Module):
    """Stands where a quantised linear belongs until the caller puts its own module there."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, _x: Tensor) -> NoReturn:
        raise RuntimeError(f"{self.path} was run before its quantised linear was put in its place")


def build_shell(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attn_implementation: str,
    absent: Iterable[str],
) -> PreTrainedModel:
    """The model `config` describes: parameters on the meta device, buffers computed for real, and
    an AbsentLinear at each path in `absent`."""
    with _parameters_on_meta():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation, trust_remote_code=False
        )
    for path in absent:
        model.set_submodule(path, AbsentLinear(path))
    return model.eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, every module's parameters are meta tensors as soon as they are registered.

    Buffers are left alone on purpose: a model built wholly on the meta device would lose the ones
    that are computed at construction and kept in no file, such as rotary frequencies.
    """

    def to_meta(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    handle = register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        handle.remove()


def fill_shell(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    tied: Mapping[str, str],
) -> None:
    """Puts `tensors` into the model's parameters and buffers.

    Raises RuntimeError when a parameter stays without a value: then the file was made for another
    version of the model's code.
    """
    for name in tensors:
        owner, attribute = _owner(model, name)
        if not isinstance(owner, AbsentLinear):
            _put(owner, attribute, _cast(tensors[name], dtype))
    for name, source in tied.items():
        owner, attribute = _owner(model, name)
        source_owner, source_attribute = _owner(model, source)
        setattr(owner, attribute, getattr(source_owner, source_attribute))
    empty = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if empty:
        raise RuntimeError(f"no weights for {', '.join(empty[:3])} of {len(empty)}")


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def _put(owner: nn.Module, attribute: str, tensor: Tensor) -> None:
    if attribute in owner._buffers:
        owner._buffers[attribute] = tensor
    else:
        setattr(owner, attribute, nn.Parameter(tensor, requires_grad=False))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Everything else was stored as bf16: float32 means transformers asked to keep it so.
    if not tensor.is_floating_point() or tensor.dtype == torch.float32:
        return tensor
    return tensor.to(dtype)
