"""Families that PEFT cannot make: their published files, and their papers' formulas, densely."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from motet.engine.base import QuantizedBase
from torch import Tensor

from tests.support.adapter_files import PREFIX, AdapterFiles

Made = tuple[AdapterFiles, Mapping[str, Tensor]]
"""The files, and what is added to the weight of each linear."""


def _original(base: QuantizedBase, module: str) -> Tensor:
    weight = base.original(module)
    assert weight is not None
    return weight


def _modules(base: QuantizedBase, suffix: str) -> list[str]:
    return [module for module in base.modules() if module.endswith(suffix)]


def milora(base: QuantizedBase, seed: int) -> Made:
    """Wang et al. 2024, arXiv 2406.09044: trained from the r minor components of the weight."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, rank, alpha = {}, {}, 4, 6
    for module in _modules(base, "q_proj"):
        u, s, vt = torch.linalg.svd(_original(base, module), full_matrices=False)
        root = (s[-rank:] * rank / alpha).sqrt()
        a0, b0 = root[:, None] * vt[-rank:], u[:, -rank:] * root
        a = a0 + 0.2 * torch.randn(a0.shape, generator=random)
        b = b0 + 0.2 * torch.randn(b0.shape, generator=random)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b.contiguous()
        deltas[module] = alpha / rank * (b @ a - b0 @ a0)
    return AdapterFiles(_lora_config("q_proj", rank, alpha, "milora"), tensors), deltas


def qalora(base: QuantizedBase, seed: int) -> Made:
    """Xu et al. 2023, arXiv 2309.14717, as PEFT 0.21 computes it on a GPTQ linear: A sees the mean
    of each group of inputs, times the number of groups."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, rank, alpha, size = {}, {}, 4, 6, 16
    for module in _modules(base, "q_proj"):
        n, k = base.shape(module)
        a = torch.randn(rank, k // size, generator=random) * 0.2
        b = torch.randn(n, rank, generator=random) * 0.2
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
        mean = torch.eye(k // size).repeat_interleave(size, 1) / size  # [groups, K]
        deltas[module] = alpha / rank * b @ a @ mean * (k / size)
    config = _lora_config("q_proj", rank, alpha, True)
    return AdapterFiles(config | {"use_qalora": True, "qalora_group_size": size}, tensors), deltas


def lora_xs(base: QuantizedBase, seed: int) -> Made:
    """Balazy et al. 2024, arXiv 2405.17604: s B R A with A and B from the weight's SVD."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, rank, alpha = {}, {}, 4, 6
    for module in _modules(base, "v_proj"):
        u, s, vt = torch.linalg.svd(_original(base, module).t(), full_matrices=False)
        a, b = (u[:, :rank] * s[:rank]).t().contiguous(), vt[:rank].t().contiguous()
        core = torch.randn(rank, rank, generator=random) * 0.5
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
        tensors[f"{PREFIX}{module}.default_lora_latent_mapping.weight"] = core
        deltas[module] = alpha / rank * (b @ core @ a)
    return AdapterFiles(_lora_config("v_proj", rank, alpha, True), tensors), deltas


def svf(base: QuantizedBase, seed: int) -> Made:
    """Sun et al. 2025, arXiv 2501.06252: singular values times a mask, their sum kept."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas = {}, {}
    modules = [module for module in base.modules() if ".mlp." in module]
    for index, module in enumerate(modules):
        weight = _original(base, module)
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        learned = torch.randn(len(s), generator=random)
        mask = torch.sigmoid(learned)
        tensors[f"learnable_params_module_list.{index}"] = learned
        deltas[module] = (u * (s * mask)) @ vt * (s.sum() / (s * mask).sum()) - weight
    return AdapterFiles({"peft_type": "SVF", "max_mult": 1}, tensors), deltas


def _lora_config(target: str, rank: int, alpha: int, init: object) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": [target],
        "init_lora_weights": init,
    }


PUBLISHED: Mapping[str, Callable[[QuantizedBase, int], Made]] = {
    "milora": milora,
    "qalora": qalora,
    "lora-xs": lora_xs,
    "svf": svf,
}
