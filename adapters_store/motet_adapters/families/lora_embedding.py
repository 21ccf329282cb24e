"""LoRA and DoRA on the token embedding: a token's row is gain * (E[t] + s B A[:, t])."""

from collections.abc import Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.dora import dora_gain
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.lora_config import LoraSettings
from motet_adapters.families.lora_linear import magnitude_name
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.safetensors_file import StoredTensor


def embedding_site(
    settings: LoraSettings, tensors: Mapping[str, StoredTensor], base: BaseWeights
) -> SitePlan:
    """PEFT names the factors lora_embedding_A [r, V] and lora_embedding_B [D, r], without .weight.

    DoRA's magnitude is [D], over norms along the vocabulary.
    """
    path, (vocabulary, size) = base.embedding()
    if settings.lora_bias:
        raise AdapterRefused(
            f"lora_bias is set and {path} is targeted, which PEFT does not combine. Keep the one "
            "that was trained.",
            "lora_bias",
        )
    rank = settings.rank_of(path)
    scale = settings.scale_of(path, rank)
    a, b = (f"{KEY_PREFIX}{path}.lora_embedding_{name}" for name in "AB")
    wanted: dict[str, tuple[int, ...]] = {a: (rank, vocabulary), b: (size, rank)}
    parts = {"at": PartSpec((vocabulary, rank)), "bt": PartSpec((rank, size))}
    magnitude = None
    if settings.use_dora:
        magnitude = magnitude_name(path, tensors)
        wanted[magnitude] = (size,)
        parts["gain"] = PartSpec((size,))

    def lower(read: Read) -> dict[str, Tensor]:
        factors = read(a), read(b) * scale
        lowered = {"at": factors[0].t(), "bt": factors[1].t()}
        if magnitude is not None:
            lowered["gain"] = dora_gain(base.dense(path).t(), *factors, read(magnitude))
        return lowered

    return SitePlan(path, wanted, parts, lower)
