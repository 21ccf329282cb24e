"""PEFT as oracle: the same adapters on the same NF4 weights, as plain linears.

bitsandbytes' own modules are not used: on some CPUs they repack their weight at the first forward
and later dequantise to something else. A plain linear that holds the dequantised weight cannot.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter with random weights, on disk and as the oracle that runs it."""

    directory: Path
    oracle: PeftModel

    def logits(self, ids: Sequence[int]) -> Tensor:
        """ids [T] -> [T, V] float32."""
        return logits(self.oracle, ids)

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        return greedy(self.oracle, prompt, num_tokens)


def make_adapter(
    plain: PreTrainedModel, directory: Path, seed: int, config: LoraConfig, size: float = 0.3
) -> PeftAdapter:
    """Write `config`'s adapter with random non-zero weights of about `size` relative effect."""
    oracle = get_peft_model(copy.deepcopy(plain), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in oracle.named_parameters():
        if "lora_" not in name:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if "magnitude" in name:
                parameter.mul_(1 + size * noise.clamp(-2, 2))
            else:
                parameter.copy_(noise * size / parameter.shape[-1] ** 0.5)
    oracle.eval()
    oracle.save_pretrained(str(directory))
    return PeftAdapter(directory, oracle)


@torch.inference_mode()
def logits(model: nn.Module, ids: Sequence[int]) -> Tensor:
    """ids [T] -> [T, V] float32."""
    output: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    return output[0].float()


def greedy(model: nn.Module, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The most probable next token, `num_tokens` times, by whole forwards."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]
