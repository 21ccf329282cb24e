"""Initialisations that take the first factors out of the base weight: PiSSA, OLoRA and MiLoRA.

Training then runs on W - s B0 A0. Saved unconverted, the file has B and A alone, and the update on
the original weight is s (B A - B0 A0): a product of rank 2r, with B0 and A0 made again from W.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.family import Family
from motet_adapters.families.lora import lora_plan
from motet_adapters.families.lora_config import KEYS, LoraSettings, init_name
from motet_adapters.families.lora_factors import Factors, Linear, MakeFactors, plain_factors
from motet_adapters.families.plan import Read

Initial = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
"""W [N, K] float32, r, s -> A0 [r, K], B0 [N, r] with W ~ s B0 A0 + what was trained on."""

_CONVERT = (
    "Convert it to plain LoRA: model.save_pretrained(directory, "
    "path_initial_model_for_weight_conversion=...)"
)


def principal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """PiSSA (arXiv 2404.02948): the r largest singular parts, the root of S / s in each factor."""
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root


def minor(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """MiLoRA (arXiv 2406.09044): the r smallest singular parts, likewise."""
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = (s[-rank:] / scale).sqrt()
    return root[:, None] * vh[-rank:], u[:, -rank:] * root


def orthonormal(weight: Tensor, rank: int, _scale: float) -> tuple[Tensor, Tensor]:
    """OLoRA (arXiv 2406.01775): the first r columns of Q and rows of R in W = Q R."""
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def subtracted(
    initial: Initial, _fields: Fields, settings: LoraSettings, base: BaseWeights
) -> MakeFactors:
    """LoRA's factors beside the initial ones, those with the opposite sign."""

    def factors(linear: Linear) -> Factors:
        refuse_tied(linear, base, settings.init)
        trained = plain_factors(settings, linear)
        scale = settings.scale_of(linear.path, trained.rank)

        def make(read: Read) -> tuple[Tensor, Tensor]:
            a, b = trained.make(read)
            a0, b0 = initial(original(linear, base, settings.init), trained.rank, scale)
            return torch.cat([a, a0]), torch.cat([b, -scale * b0], dim=1)

        rank = trained.rank + min(trained.rank, linear.out_features, linear.in_features)
        return Factors(rank, trained.tensors, make)

    return factors


def refuse_tied(linear: Linear, base: BaseWeights, what: str) -> None:
    """What was taken out of a tied head left the embedding too, where there are no factors."""
    if linear.path == base.head()[0] and base.head()[2]:
        raise AdapterRefused(
            f"{what} took a part out of {linear.path}, whose weight is the embedding's as well: "
            f"that is not served. {_CONVERT}, or train without {linear.path}.",
            "init_lora_weights",
        )


def original(linear: Linear, base: BaseWeights, what: str) -> Tensor:
    """[N, K] float32, not quantised. Raises AdapterRefused where only quantised weights are."""
    weight = base.dense(linear.path) if linear.path == base.head()[0] else None
    weight = base.original(linear.path) if weight is None else weight
    if weight is None:
        raise AdapterRefused(
            f"{what} took a part of the base weight of {linear.path} out of it, and to know which "
            f"the unquantised weight is needed, which this server does not have. {_CONVERT}, or "
            "start the server from the unquantised checkpoint.",
            "init_lora_weights",
        )
    return weight


def _family(name: str, title: str, initial: Initial, formula: str, paper_url: str) -> Family:
    return Family(
        name=name,
        title=f"{title}, unconverted",
        peft_type="LORA",
        status="served",
        formula=f"y = W x + b + s (B A - B0 A0) x, {formula}",
        lowering="a = [A; A0], b = s [B, -B0], A0 and B0 made again from the unquantised W",
        rank_after="2r",
        memory="2r (K + N)",
        paper_url=paper_url,
        keys=KEYS,
        plan=lora_plan(partial(subtracted, initial), name),
        param="init_lora_weights",
        claims=lambda fields: init_name(fields) == name,
    )


def _refused(name: str, title: str, fix: str, paper_url: str) -> Family:
    return Family(
        name=name,
        title=title,
        peft_type="LORA",
        status="refused",
        formula="y = W x + b + s (B A - B0 A0) x",
        lowering="",
        rank_after="2r",
        memory="",
        paper_url=paper_url,
        fix=fix,
        param="init_lora_weights",
        claims=lambda fields: init_name(fields).startswith(name),
    )


PISSA = _family(
    "pissa",
    "PiSSA",
    principal,
    "B0 A0 the r largest singular parts of W / s",
    "https://arxiv.org/abs/2404.02948",
)
OLORA = _family(
    "olora",
    "OLoRA",
    orthonormal,
    "B0 and A0 the first r columns of Q and rows of R, W = Q R",
    "https://arxiv.org/abs/2406.01775",
)
MILORA = _family(
    "milora",
    "MiLoRA",
    minor,
    "B0 A0 the r smallest singular parts of W / s",
    "https://arxiv.org/abs/2406.09044",
)
PISSA_NITER = _refused(
    "pissa_niter",
    "PiSSA by randomised SVD, unconverted",
    # On random 576 x 1536 matrices it takes out something 12 to 110 % away from the exact part.
    "what its randomised SVD took out of the base weight cannot be made again. " + _CONVERT,
    "https://arxiv.org/abs/2404.02948",
)
CORDA = _refused(
    "corda",
    "CorDA, unconverted",
    "what it took out of the base weight depends on data. " + _CONVERT,
    "https://arxiv.org/abs/2406.05223",
)
LORA_GA = _refused(
    "lora_ga",
    "LoRA-GA, unconverted",
    "what it took out of the base weight depends on gradients. " + _CONVERT,
    "https://arxiv.org/abs/2407.05000",
)
