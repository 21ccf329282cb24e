"""Families that PEFT cannot make: their published files, and their papers' formulas, densely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from motet.engine.base import QuantizedBase
from torch import Tensor, nn

from tests.support.adapter_files import PREFIX, AdapterFiles

Made = tuple[AdapterFiles, Mapping[str, Tensor] | Callable[[nn.Module], None]]
"""The files, and what is added to the weight of each linear, or what changes the model."""


def _original(base: QuantizedBase, module: str) -> Tensor:
    weight = base.original(module)
    assert weight is not None
    return weight


def _modules(base: QuantizedBase, name: str, everywhere: bool) -> list[str]:
    return [module for module in base.modules() if everywhere or module.endswith(name)]


def milora(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Wang et al. 2024, arXiv 2406.09044: trained from the r minor components of the weight."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, alpha = {}, {}, 6
    for module in _modules(base, "q_proj", everywhere):
        u, s, vt = torch.linalg.svd(_original(base, module), full_matrices=False)
        root = (s[-rank:] * rank / alpha).sqrt()
        a0, b0 = root[:, None] * vt[-rank:], u[:, -rank:] * root
        a = a0 + 0.2 * torch.randn(a0.shape, generator=random)
        b = b0 + 0.2 * torch.randn(b0.shape, generator=random)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b.contiguous()
        deltas[module] = alpha / rank * (b @ a - b0 @ a0)
    return AdapterFiles(_lora_config("q_proj", everywhere, rank, alpha, "milora"), tensors), deltas


def qalora(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Xu et al. 2023, arXiv 2309.14717, as PEFT 0.21 computes it on a GPTQ linear: A sees the mean
    of each group of inputs, times the number of groups."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, alpha, size = {}, {}, 6, 16
    for module in _modules(base, "q_proj", everywhere):
        n, k = base.shape(module)
        a = torch.randn(rank, k // size, generator=random) * 0.2
        b = torch.randn(n, rank, generator=random) * 0.2
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
        mean = torch.eye(k // size).repeat_interleave(size, 1) / size  # [groups, K]
        deltas[module] = alpha / rank * b @ a @ mean * (k / size)
    config = _lora_config("q_proj", everywhere, rank, alpha, True)
    return AdapterFiles(config | {"use_qalora": True, "qalora_group_size": size}, tensors), deltas


def lora_xs(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Balazy et al. 2024, arXiv 2405.17604: s B R A with A and B from the weight's SVD."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, alpha = {}, {}, 6
    for module in _modules(base, "v_proj", everywhere):
        u, s, vt = torch.linalg.svd(_original(base, module).t(), full_matrices=False)
        a, b = (u[:, :rank] * s[:rank]).t().contiguous(), vt[:rank].t().contiguous()
        core = torch.randn(rank, rank, generator=random) * 0.5
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
        tensors[f"{PREFIX}{module}.default_lora_latent_mapping.weight"] = core
        deltas[module] = alpha / rank * (b @ core @ a)
    return AdapterFiles(_lora_config("v_proj", everywhere, rank, alpha, True), tensors), deltas


def irqlora(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Qin et al. 2024, arXiv 2402.05445: connections around both factors, by means and repeats."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, alpha = {}, {}, 6
    for module in _modules(base, "q_proj", everywhere):
        n, k = base.shape(module)
        a = torch.randn(rank, k, generator=random) * 0.2
        b = torch.randn(n, rank, generator=random) * 0.2
        scales = torch.randn(2, generator=random)
        path = f"{PREFIX}{module}"
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
        tensors |= {
            f"{path}.lora_default_A_scale": scales[:1].clone(),
            f"{path}.lora_default_B_scale": scales[1:].clone(),
        }
        means = torch.eye(rank).repeat_interleave(k // rank, 1) / (k // rank)
        repeats = torch.eye(rank).repeat_interleave(n // rank, 0)
        inner = a + scales[0] * means
        deltas[module] = alpha / rank * (b + scales[1] * repeats) @ inner
    return AdapterFiles(_lora_config("q_proj", everywhere, rank, alpha, True), tensors), deltas


def nola(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Koohpayegani et al. 2023, arXiv 2310.02556: factors of random matrices from a seed."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, alpha, count = {}, {}, 6, 8
    for number, module in enumerate(_modules(base, "o_proj", everywhere)):
        n, k = base.shape(module)
        factors = []
        for name, shape in (("lora_A", (rank, k)), ("lora_B", (n, rank))):
            key, drawn_from = f"{PREFIX}{module}.{name}", 100 * number + len(factors)
            weight = torch.randn(shape, generator=random) * 0.1
            coefficients = torch.randn(count, generator=random) * 0.3
            drawn = torch.zeros(count, *shape)
            drawn.uniform_(-1, 1, generator=torch.Generator().manual_seed(drawn_from))
            mixed = torch.einsum("c,cij->ij", coefficients, drawn) / count**0.5
            factors.append(weight + mixed)
            tensors[f"{key}.weight"], tensors[f"{key}.coefficients"] = weight, coefficients
            tensors[f"{key}.seed"] = torch.tensor([drawn_from])
        deltas[module] = alpha / rank * factors[1] @ factors[0]
    config = _lora_config("o_proj", everywhere, rank, alpha, True)
    config |= {"use_nola": True, "nola_num_basis": count, "nola_device": "cpu"}
    return AdapterFiles(config, tensors), deltas


def loftq(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Li et al. 2023, arXiv 2310.08659: after one iteration at 4 bits its base is NF4(W)."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, alpha = {}, {}, 6
    for module in _modules(base, "k_proj", everywhere):
        n, k = base.shape(module)
        a = torch.randn(rank, k, generator=random) * 0.2
        b = torch.randn(n, rank, generator=random) * 0.2
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
        deltas[module] = alpha / rank * b @ a
    config = _lora_config("k_proj", everywhere, rank, alpha, "loftq")
    return AdapterFiles(
        config | {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}, tensors
    ), deltas


def svft(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Lingam et al. 2024, arXiv 2405.19597: a sparse matrix between the singular vectors."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas, width = {}, {}, 2
    # Nowhere else: its files bring their own vectors, of the weights' size.
    for module in _modules(base, "up_proj", everywhere=False):
        weight = _original(base, module)
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        offsets = torch.tensor([*range(width + 1), *range(-1, -width - 1, -1)])
        band = torch.sparse.spdiags(torch.ones(len(offsets), len(s)), offsets, (len(s), len(s)))
        rows, columns = band.coalesce().indices()
        values, gate = torch.randn(len(rows), generator=random), torch.randn(1, generator=random)
        path, order = f"{module}.svft_layer", torch.arange(len(s))
        tensors |= {f"{path}.s": values, f"{path}.gate": gate, f"{path}.s_pre": s}
        tensors |= {f"{path}.s_row": rows.clone(), f"{path}.s_col": columns.clone()}
        tensors |= {f"{path}.s_pre_row": order.clone(), f"{path}.s_pre_col": order.clone()}
        tensors |= {f"{path}.u": u.contiguous(), f"{path}.v": v.contiguous()}
        core = torch.diag(s).index_put((rows, columns), values * gate.sigmoid(), accumulate=True)
        deltas[module] = u @ core @ v - weight
    config = {"peft_type": "SVFT", "target_modules": ["up_proj"], "pattern": "banded"}
    return AdapterFiles(config | {"off_diag": width, "rank": None}, tensors), deltas


def _bottleneck(
    base: QuantizedBase, seed: int, rank: int, everywhere: bool, *, houlsby: bool
) -> Made:
    """The adapters library, 1.3: h + Up f(Down h), on both sublayers' outputs before the residual
    (Houlsby et al. 2019, arXiv 1902.00751), or on what a layer returns (Pfeiffer et al. 2020, arXiv
    2005.00247)."""
    random = torch.Generator().manual_seed(seed)
    size, places = base.hidden_size, ("attention", "output") if houlsby else ("output",)
    tensors: dict[str, Tensor] = {}
    for path in base.layers():
        for place in places:
            key = f"{path}.{place}_adapters.adapters.mine.adapter"
            tensors |= {
                f"{key}_down.0.weight": torch.randn(rank, size, generator=random) * 0.3,
                f"{key}_down.0.bias": torch.randn(rank, generator=random),
                f"{key}_up.weight": torch.randn(size, rank, generator=random) * 0.3,
                f"{key}_up.bias": torch.randn(size, generator=random) * 0.3,
            }

    def change(model: nn.Module) -> None:
        where = {"attention": ".self_attn.o_proj", "output": ".mlp.down_proj" if houlsby else ""}
        for path in base.layers():
            for place in places:
                key = f"{path}.{place}_adapters.adapters.mine.adapter"
                parts = [tensors[f"{key}_{part}"] for part in _PARTS]
                model.get_submodule(path + where[place]).register_forward_hook(_Hook(*parts))

    config: dict[str, object] = {
        "mh_adapter": houlsby,
        "output_adapter": True,
        "original_ln_before": not houlsby,
        "original_ln_after": True,
        "residual_before_ln": True,
        "non_linearity": "relu",
        "reduction_factor": size // rank,
    }
    outer: dict[str, object] = {"config": config, "hidden_size": size, "name": "mine"}
    outer |= {"model_class": "LlamaAdapterModel", "model_type": "llama", "model_name": "a/llama"}
    return AdapterFiles(outer | {"version": "adapters.1.3.0"}, tensors), change


_PARTS = ("down.0.weight", "down.0.bias", "up.weight", "up.bias")


class _Hook:
    """y = h + Up relu(Down h + c) + d."""

    def __init__(self, down: Tensor, c: Tensor, up: Tensor, d: Tensor) -> None:
        self._down, self._c, self._up, self._d = down, c, up, d

    def __call__(self, _module: object, _arguments: object, h: Tensor) -> Tensor:
        return h + torch.relu(h @ self._down.t() + self._c) @ self._up.t() + self._d


def svf(base: QuantizedBase, seed: int, rank: int, everywhere: bool) -> Made:
    """Sun et al. 2025, arXiv 2501.06252: singular values times a mask, their sum kept."""
    random = torch.Generator().manual_seed(seed)
    tensors, deltas = {}, {}
    modules = [module for module in base.modules() if ".mlp." in module]  # the published choice
    for index, module in enumerate(modules):
        weight = _original(base, module)
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        learned = torch.randn(len(s), generator=random)
        mask = torch.sigmoid(learned)
        tensors[f"learnable_params_module_list.{index}"] = learned
        deltas[module] = (u * (s * mask)) @ vt * (s.sum() / (s * mask).sum()) - weight
    return AdapterFiles({"peft_type": "SVF", "max_mult": 1}, tensors), deltas


def _lora_config(
    target: str, everywhere: bool, rank: int, alpha: int, init: object
) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": "all-linear" if everywhere else [target],
        "init_lora_weights": init,
    }


PUBLISHED: Mapping[str, Callable[[QuantizedBase, int, int, bool], Made]] = {
    "milora": milora,
    "irqlora": irqlora,
    "nola": nola,
    "loftq": loftq,
    "svft": svft,
    "bottleneck": partial(_bottleneck, houlsby=True),
    "pfeiffer": partial(_bottleneck, houlsby=False),
    "qalora": qalora,
    "lora-xs": lora_xs,
    "svf": svf,
}
