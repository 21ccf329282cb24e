"""QA-LoRA (arXiv 2309.14717): A sees the sums of groups of G inputs."""

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import is_set
from motet_adapters.families.family import Family
from motet_adapters.families.lora import lora_plan
from motet_adapters.families.lora_config import KEYS, LoraSettings
from motet_adapters.families.lora_factors import Factors, Linear, MakeFactors, plain_factors
from motet_adapters.families.plan import Read

_GROUP = "qalora_group_size"
_MAX_GROUP = 1 << 20


def pooled(fields: Fields, settings: LoraSettings, _base: BaseWeights) -> MakeFactors:
    """PEFT: s B A (mean over groups of x * K / G). So A'[:, k] = A[:, k // G] * K / G / G."""
    fields.flag("use_qalora")
    size = fields.integer(fields.get(_GROUP, 16), _GROUP, 1, _MAX_GROUP)

    def factors(linear: Linear) -> Factors:
        if linear.in_features % size:
            raise AdapterRefused(
                f"{_GROUP} is {size}, which does not divide the {linear.in_features} inputs of "
                f"{linear.path}. Correct it to what was trained.",
                _GROUP,
            )
        num_groups = linear.in_features // size
        trained = plain_factors(settings, linear)
        a, b = trained.tensors
        shapes = {a: (trained.rank, num_groups), b: trained.tensors[b]}

        def make(read: Read) -> tuple[Tensor, Tensor]:
            grouped, expanded = trained.make(read)
            return grouped.repeat_interleave(size, dim=1) * (num_groups / size), expanded

        return Factors(trained.rank, shapes, make)

    return factors


QALORA = Family(
    name="qalora",
    title="QA-LoRA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + s B A (K / G mean of each G of x)",
    lowering="a[:, k] = A[:, k // G] K / G^2, b = s B",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2309.14717",
    keys=KEYS,
    plan=lora_plan(pooled, "qalora"),
    claims=lambda fields: is_set(fields, "use_qalora"),
)
