"""The families whose peft_type is LORA: a product of two factors on linears, and what PEFT saves
beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.copies import no_copy
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.beside import beside_sites
from motet_adapters.families.combined import combined
from motet_adapters.families.config_keys import is_set, require_causal
from motet_adapters.families.family import Family, Plan
from motet_adapters.families.lora_config import (
    KEYS,
    LoraSettings,
    init_name,
    lora_settings,
    require_plain,
)
from motet_adapters.families.lora_embedding import embedding_site
from motet_adapters.families.lora_experts import expert_sites
from motet_adapters.families.lora_factors import Linear, Prepare, plain
from motet_adapters.families.lora_linear import lora_site
from motet_adapters.families.modules import targeted_modules
from motet_adapters.families.plan import AdapterPlan, SitePlan
from motet_adapters.families.unstacked_experts import unstacked_sites, without_experts
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_INVOCATION = "alora_invocation_tokens"
_PARAMETERS = "target_parameters"
_VELORA = "velora_config"
# PEFT changes these for the whole sequence; aLoRA leaves the base alone before its invocation.
_NOT_WITH_INVOCATION = ("modules_to_save", "trainable_token_indices", _PARAMETERS)


def lora_plan(prepare: Prepare, kind: str | None = None, *warnings: str) -> Plan:
    """The plan of a family that differs from LoRA in its factors. kind: None: LoRA's own.

    warnings: told to everybody who uploads one.
    """

    def plan(
        fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
    ) -> AdapterPlan:
        settings = lora_settings(fields, limits)
        rest, of_experts = without_experts(settings.targets, tensors, base)
        settings = replace(settings, targets=rest)
        invocation = _invocation(fields, settings, base)
        factors = prepare(fields, settings, base)
        targets = _targets(fields, settings, tensors, base)
        sites: list[SitePlan] = []
        for path in targets:
            if path == base.embedding()[0]:
                require_plain(fields, f"{path} is")
                sites.append(embedding_site(settings, tensors, base))
            else:
                linear = _linear(path, base)
                sites.append(lora_site(settings, linear, factors(linear), tensors, base))
        parameters = fields.names(_PARAMETERS)
        if parameters or of_experts:
            require_plain(fields, "parameters are")
        sites += expert_sites(parameters, settings, base)
        sites += unstacked_sites(of_experts, settings, tensors, base)
        sites += beside_sites(fields, targets, tensors, base)
        found = combined(sites, base)
        return AdapterPlan(
            kind or settings.kind,
            found,
            copies=_copies(found, tensors, base),
            ignored=_of_training(fields, tensors),
            invocation_tokens=invocation,
            warnings=warnings,
        )

    return plan


def _targets(
    fields: Fields,
    settings: LoraSettings,
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
) -> list[str]:
    embedding, (head, _, is_tied) = base.embedding()[0], base.head()
    if not settings.targets.names and settings.targets.expression is None:
        return []  # parameters or experts alone
    found = targeted_modules(settings.targets, base.modules(), tensors, (embedding, head))
    if fields.flag("ensure_weight_tying") and is_tied and embedding in found and head not in found:
        found.append(head)  # the embedding's factors transposed, which PEFT saves again
    return found


def _linear(path: str, base: BaseWeights) -> Linear:
    return Linear(path, *(base.head()[1] if path == base.head()[0] else base.shape(path)))


def _copies(
    sites: Sequence[SitePlan], tensors: Mapping[str, StoredTensor], base: BaseWeights
) -> dict[str, str]:
    """PEFT saves the base's own embedding and head beside adapters on them, if only to be sure."""
    wanted = {name for site in sites for name in site.tensors}
    found = {}
    for path, shape in (base.embedding(), base.head()[:2]):
        for inner in ("", ".base_layer"):
            name = f"{KEY_PREFIX}{path}{inner}.weight"
            if name in tensors and name not in wanted:
                if tensors[name].shape != shape or not tensors[name].dtype.is_floating_point:
                    raise no_copy(name, path)
                found[name] = path
    return found


def _of_training(fields: Fields, tensors: Mapping[str, StoredTensor]) -> frozenset[str]:
    """VeLoRA's projections, by which gradients were computed and nothing else."""
    if not is_set(fields, _VELORA):
        return frozenset()
    return frozenset(name for name in tensors if name.endswith(".lora_velora_embed"))


def _invocation(fields: Fields, settings: LoraSettings, base: BaseWeights) -> tuple[int, ...]:
    tokens = fields.numbers(_INVOCATION, base.embedding()[1][0] - 1)
    if tokens:
        require_causal(fields, "an adapter with invocation tokens")
    together = [key for key in _NOT_WITH_INVOCATION if is_set(fields, key)]
    if settings.bias != "none":
        together.append("bias")
    if tokens and together:
        raise AdapterRefused(
            f"{together[0]} is set beside {_INVOCATION}. It would change the tokens before the "
            "invocation too, which aLoRA leaves to the base: train without it.",
            together[0],
        )
    return tokens


DORA = Family(
    name="dora",
    title="DoRA, QDoRA",
    peft_type="LORA",
    status="served",
    formula="y = m / ||W + s B A|| * (W x + s B A x) + b",
    lowering="a = A, b = s B, gain = m / ||W + s B A|| against the weight that runs",
    rank_after="r",
    memory="r (K + N) + N",
    paper_url="https://arxiv.org/abs/2402.09353",
    keys=KEYS,
    plan=lora_plan(plain),
    claims=lambda fields: is_set(fields, "use_dora"),
)

ALORA = Family(
    name="alora",
    title="aLoRA",
    peft_type="LORA",
    status="served",
    formula="LoRA from the last invocation sequence on, the base before it",
    lowering="as LoRA; the rows before the invocation run on the base, whose cache they share",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2504.12397",
    keys=KEYS,
    plan=lora_plan(plain, "alora"),
    claims=lambda fields: is_set(fields, _INVOCATION),
)

RSLORA = Family(
    name="rslora",
    title="rsLoRA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + alpha / sqrt(r) B A x",
    lowering="a = A, b = alpha / sqrt(r) B",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2312.03732",
    keys=KEYS,
    plan=lora_plan(plain),
    claims=lambda fields: is_set(fields, "use_rslora"),
)


VELORA = Family(
    name="velora",
    title="VeLoRA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + alpha / r B A x, A's gradient from compressed inputs",
    lowering="a = A, b = alpha / r B; what the inputs were projected on is not read",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2405.17991",
    keys=KEYS,
    plan=lora_plan(plain),
    claims=lambda fields: is_set(fields, _VELORA),
)


def _lora(name: str, title: str, paper_url: str, *inits: str, certain: bool = True) -> Family:
    """A family that is LoRA once it is saved. certain: False: nothing in the file tells them apart,
    and LoRA's own row claims it."""
    return Family(
        name=name,
        title=title,
        peft_type="LORA",
        status="served",
        formula="y = W x + b + alpha / r B A x",
        lowering="a = A, b = alpha / r B",
        rank_after="r",
        memory="r (K + N)",
        paper_url=paper_url,
        keys=KEYS,
        plan=lora_plan(plain),
        claims=lambda fields: certain and init_name(fields) in inits,
    )


PLAIN_LORA = (
    _lora("eva", "EVA", "https://arxiv.org/abs/2410.07170", "eva"),
    _lora("mica", "MiCA", "https://arxiv.org/abs/2604.01694", "mica"),
    _lora(
        "orthogonal-lora",
        "LoRA, orthogonal initialisation",
        "https://huggingface.co/docs/peft/developer_guides/lora",
        "orthogonal",
    ),
    _lora(
        "gaussian-lora",
        "LoRA, Gaussian initialisation",
        "https://arxiv.org/abs/2106.09685",
        "gaussian",
    ),
    _lora("lora-plus", "LoRA+", "https://arxiv.org/abs/2402.12354", certain=False),
    _lora("qlora", "QLoRA", "https://arxiv.org/abs/2305.14314", certain=False),
    _lora("modulora", "ModuLoRA", "https://arxiv.org/abs/2309.16119", certain=False),
    Family(
        name="lora",
        title="LoRA",
        peft_type="LORA",
        status="served",
        formula="y = W x + b + alpha / r B A x",
        lowering="a = A, b = alpha / r B",
        rank_after="r",
        memory="r (K + N)",
        paper_url="https://arxiv.org/abs/2106.09685",
        keys=KEYS,
        plan=lora_plan(plain),
    ),
)
