"""IR-QLoRA (arXiv 2402.05445): LoRA with elastic connections around both of its factors.

Its repository saves, beside PEFT's tensors, one scalar for each connection.
"""

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.family import Family
from motet_adapters.families.lora import lora_plan
from motet_adapters.families.lora_config import KEYS, LoraSettings
from motet_adapters.families.lora_factors import Factors, Linear, MakeFactors, plain_factors
from motet_adapters.families.plan import Read

_MARKER = "lora_default_A_scale"


def elastic(fields: Fields, settings: LoraSettings, base: BaseWeights) -> MakeFactors:
    """z = A x + beta_1 P x, y += s (B z + beta_2 R z): A' = A + beta_1 P, B' = s (B + beta_2 R).

    P takes the means of r equal groups of inputs, R repeats each of r values N / r times.
    """
    del fields, base

    def factors(linear: Linear) -> Factors:
        trained = plain_factors(settings, linear)
        rank = trained.rank
        scale = settings.scale_of(linear.path, rank)
        if linear.in_features % rank or linear.out_features % rank:
            raise AdapterRefused(
                f"r is {rank}, which does not divide {linear.path} of {linear.out_features} x "
                f"{linear.in_features}, as IR-QLoRA wants. Correct it to what was trained.",
                "r",
            )
        first, second = linear.key(_MARKER), linear.key("lora_default_B_scale")
        own = torch.eye(rank)
        means = own.repeat_interleave(linear.in_features // rank, dim=1)
        means = means * (rank / linear.in_features)
        repeats = own.repeat_interleave(linear.out_features // rank, dim=0)

        def make(read: Read) -> tuple[Tensor, Tensor]:
            a, b = trained.make(read)
            return a + read(first) * means, b + scale * read(second) * repeats

        return Factors(rank, {**trained.tensors, first: (1,), second: (1,)}, make)

    return factors


IRQLORA = Family(
    name="irqlora",
    title="IR-QLoRA",
    peft_type="LORA",
    status="served",
    formula="z = A x + beta_1 P x; y = W x + b + s (B z + beta_2 R z)",
    lowering="a = A + beta_1 P, b = s (B + beta_2 R)",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2402.05445",
    keys=KEYS,
    plan=lora_plan(
        elastic,
        "irqlora",
        "IR-QLoRA trains on its own calibrated NF4, and the adapter is served on plain NF4 of the "
        "same weights: answers may be slightly worse than in its own evaluation.",
    ),
    marker=_MARKER,
)
