"""KaSA (arXiv 2412.06071): W without its r smallest singular parts, and s B diag(d) A beside it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import is_set
from motet_adapters.families.family import Family
from motet_adapters.families.lora import lora_plan
from motet_adapters.families.lora_config import KEYS, LoraSettings
from motet_adapters.families.lora_factors import Factors, Linear, MakeFactors, plain_factors
from motet_adapters.families.pissa import original, refuse_tied
from motet_adapters.families.plan import Read

_KEY = "kasa_config"
_OF_TRAINING = frozenset({"beta", "gamma"})  # weights of terms of its loss


def truncated(fields: Fields, settings: LoraSettings, base: BaseWeights) -> MakeFactors:
    """Rank 2r: the update, and the singular parts of the unquantised W with the opposite sign."""
    _require_known(fields)

    def factors(linear: Linear) -> Factors:
        refuse_tied(linear, base, "KaSA")
        trained = plain_factors(settings, linear)
        rank = trained.rank
        if rank >= min(linear.out_features, linear.in_features):
            raise AdapterRefused(
                f"r is {rank}, and KaSA leaves nothing of {linear.path} at that rank. Correct it "
                "to what was trained.",
                "r",
            )
        diagonal = linear.key("lora_diag")

        def make(read: Read) -> tuple[Tensor, Tensor]:
            a, b = trained.make(read)
            u, s, vh = torch.linalg.svd(original(linear, base, "KaSA"), full_matrices=False)
            dropped = u[:, -rank:] * s[-rank:]
            return torch.cat([a, vh[-rank:]]), torch.cat([b * read(diagonal), -dropped], dim=1)

        return Factors(2 * rank, {**trained.tensors, diagonal: (rank,)}, make)

    return factors


def _require_known(fields: Fields) -> None:
    value = fields.get(_KEY)
    if not isinstance(value, Mapping) or not value.keys() <= _OF_TRAINING:
        raise AdapterRefused(
            f"{_KEY} is not what PEFT 0.21 writes: an object of {', '.join(sorted(_OF_TRAINING))}.",
            _KEY,
        )


KASA = Family(
    name="kasa",
    title="KaSA",
    peft_type="LORA",
    status="served",
    formula="y = (W - its r smallest singular parts) x + b + s B diag(d) A x",
    lowering="a = [A; V_r^T], b = [s B diag(d), -U_r S_r], of the unquantised W",
    rank_after="2r",
    memory="2r (K + N)",
    paper_url="https://arxiv.org/abs/2412.06071",
    keys=KEYS,
    plan=lora_plan(truncated, "kasa"),
    claims=lambda fields: is_set(fields, _KEY),
)
