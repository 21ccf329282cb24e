"""Well-formed files whose tensors are no adapter: the numbers in them, or what belongs together."""

import math
from collections.abc import Iterator

import torch
from safetensors.torch import save
from torch import Tensor

from tests.support.adapter_files import AdapterFiles


def bent_tensors(files: AdapterFiles) -> Iterator[tuple[str, bytes, str]]:
    """(name, weights file, an expression that the refusal must match), of a plain LoRA."""
    tensors = files.tensors
    first = next(name for name in tensors if "lora_A" in name)
    second = first.replace("lora_A", "lora_B")
    a, b = tensors[first], tensors[second]

    def with_tensors(**changed: Tensor | None) -> bytes:
        names = {"a": first, "b": second}
        merged = tensors | {names.get(key, key): value for key, value in changed.items()}
        return save({name: each.clone() for name, each in merged.items() if each is not None})

    for value in (math.nan, math.inf, -math.inf):
        for name, whole in (("a", a), ("b", b)):
            for at in (0, whole.numel() - 1):
                yield (
                    f"{value} in {name} at {at}",
                    with_tensors(**{name: with_value(whole, at, value)}),
                    "NaN or infinite",
                )
    # Each finite; what comes of them is not.
    huge = torch.full_like(b, 3e38)
    yield "an overflow by alpha", with_tensors(b=huge), "too large|overflow|range|infinite"
    yield "half a pair", with_tensors(b=None), "missing|pair"
    yield "the other half", with_tensors(a=None), "missing|pair"
    yield "pairs of two ranks", with_tensors(b=b[:, :-1].contiguous()), "base needs"
    yield "another rank than the config's", with_tensors(a=a[:2], b=b[:, :2].contiguous()), "needs"
    yield "factors swapped", with_tensors(a=b, b=a), "base needs"
    magnitude = first.replace("lora_A.weight", "lora_magnitude_vector")
    yield "a magnitude without DoRA", with_tensors(**{magnitude: torch.ones(32)}), "use_dora|fit no"
    other = first.replace("q_proj", "o_proj")
    yield "a module that is no target", with_tensors(**{other: a}), "target"
    yield "a layer that is none", with_tensors(**{first.replace(".0.", ".99."): a}), "target|layer"
    tokens = "base_model.model.model.embed_tokens.weight"
    yield "the embedding too", with_tensors(**{tokens: torch.zeros(24, 32)}), "the base's own"


def with_value(tensor: Tensor, at: int, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[at] = value
    return changed
