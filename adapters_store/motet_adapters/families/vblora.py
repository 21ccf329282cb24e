"""VB-LoRA (arXiv 2405.15179): A and B pieced together from a bank of vectors shared by all modules.

Each piece is a mixture of the k bank vectors with the largest logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.beside import beside_sites
from motet_adapters.families.combined import combined
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.modules import targeted_linears
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_BANK = "base_model.vblora_vector_bank"
_MAX = 1 << 30

KEYS = ConfigKeys(
    served=TARGETS
    | {
        *("r", "num_vectors", "vector_length", "topk", "save_only_topk_weights"),
        *("fan_in_fan_out", "bias", "modules_to_save"),
    },
    harmless=COMMON | {"vblora_dropout", "init_vector_bank_bound", "init_logits_std"},
)


@dataclass(frozen=True)
class _Bank:
    rank: int
    num_vectors: int
    length: int  # of a vector
    topk: int
    is_short: bool  # the file has the k weights and indices, not the logits

    def tensors(self, path: str, factor: str, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what a factor is mixed by. shape: of the pieces."""
        name = f"{KEY_PREFIX}{path}.vblora_logits_{factor}"
        if not self.is_short:
            return {name: (*shape, self.num_vectors)}
        weights, indices = f"{name}_topk_weights", f"{name}_topk_indices"
        return {weights: (*shape, self.topk - 1), indices: (*shape, self.topk)}

    def pieces(self, names: tuple[str, ...], bank: Tensor, read: Read) -> Tensor:
        """[..., length]. names: as `tensors` gives them."""
        if self.is_short:
            saved, indices = read(names[0]), read(names[1])
            if not ((indices >= 0) & (indices < self.num_vectors)).all():
                raise AdapterRefused(
                    f"{names[1]} points past the bank of {self.num_vectors} vectors. Upload the "
                    "file as PEFT wrote it.",
                    WEIGHTS_FILE,
                )
            # All but the last are saved; together they are 1.
            weights = torch.cat([saved, 1 - saved.sum(-1, keepdim=True)], dim=-1)
        else:
            largest, indices = read(names[0]).topk(self.topk, dim=-1)
            weights = largest.softmax(dim=-1)
        return (weights.unsqueeze(-1) * bank[indices]).sum(-2)


def plan_vblora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """PEFT's update has no scale."""
    fields.flag("fan_in_fan_out")
    num_vectors = fields.integer(fields.get("num_vectors", 256), "num_vectors", 1, _MAX)
    bank = _Bank(
        fields.integer(fields.get("r", 4), "r", 1, limits.max_rank),
        num_vectors,
        fields.integer(fields.get("vector_length", 256), "vector_length", 1, _MAX),
        fields.integer(fields.get("topk", 2), "topk", 1, num_vectors),
        fields.flag("save_only_topk_weights"),
    )
    targets = targeted_linears(fields.targets(), base, tensors)
    sites = [_site(bank, path, base) for path in targets]
    sites += beside_sites(fields, targets, tensors, base, "vblora")
    return AdapterPlan("vblora", combined(sites, base))


def _site(bank: _Bank, path: str, base: BaseWeights) -> SitePlan:
    out_features, in_features = base.shape(path)
    if out_features % bank.length or in_features % bank.length:
        raise AdapterRefused(
            f"vector_length is {bank.length}, which does not divide {path} of {out_features} x "
            f"{in_features}. Correct it to what was trained.",
            "vector_length",
        )
    of_a = bank.tensors(path, "A", (bank.rank, in_features // bank.length))
    of_b = bank.tensors(path, "B", (out_features // bank.length, bank.rank))
    integers = frozenset(name for name in (*of_a, *of_b) if name.endswith("_indices"))
    parts = {
        "a": PartSpec((bank.rank, in_features)),
        "bt": PartSpec((bank.rank, out_features)),
    }
    wanted = {**of_a, **of_b, _BANK: (bank.num_vectors, bank.length)}
    lower = partial(_lower, bank, tuple(of_a), tuple(of_b))
    return SitePlan(path, wanted, parts, lower, integers=integers)


def _lower(
    bank: _Bank, of_a: tuple[str, ...], of_b: tuple[str, ...], read: Read
) -> dict[str, Tensor]:
    vectors = read(_BANK)
    a = bank.pieces(of_a, vectors, read)  # [r, K / length, length]
    b = bank.pieces(of_b, vectors, read)  # [N / length, r, length]
    return {"a": a.flatten(1), "bt": b.transpose(0, 1).flatten(1)}


VBLORA = Family(
    name="vblora",
    title="VB-LoRA",
    peft_type="VBLORA",
    status="served",
    formula="y = W x + b + B A x, each piece of A and B a mixture of k vectors of one bank",
    lowering="a = A, b = B, put together at upload",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2405.15179",
    keys=KEYS,
    plan=plan_vblora,
)
