"""Trainable tokens of PEFT: rows of the embedding, and of the head where the two are tied."""

from collections.abc import Mapping

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import COMMON, ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, SitePlan
from motet_adapters.families.trained_tokens import rows_site
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.patterns import suffixes
from motet_adapters.safetensors_file import StoredTensor

_INDICES = "token_indices"

KEYS = ConfigKeys(
    served=frozenset({"peft_type", "task_type", "target_modules", _INDICES}),
    harmless=COMMON | {"init_weights"},
)


def plan_trainable_tokens(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """PEFT saves the rows as MODULE.trainable_tokens_delta, and most often a tied head's again."""
    del limits
    embedding, (vocabulary, _) = base.embedding()
    head, _, is_tied = base.head()
    indices = fields.numbers(_INDICES, vocabulary - 1)
    if not indices:
        raise AdapterRefused(f"{_INDICES} is empty. List the tokens that were trained.", _INDICES)
    name, of_head = (f"{KEY_PREFIX}{path}.trainable_tokens_delta" for path in (embedding, head))
    named = _targets(fields.get("target_modules"), embedding, head)
    sites: list[SitePlan] = []
    if embedding in named:
        sites.append(rows_site(embedding, name, indices, base))
        if is_tied:
            sites.append(rows_site(head, of_head if of_head in tensors else name, indices, base))
    if head in named and not (is_tied and embedding in named):
        sites.append(rows_site(head, of_head, indices, base))
    return AdapterPlan("trainable_tokens", tuple(sites))


def _targets(value: object, embedding: str, head: str) -> frozenset[str]:
    """Paths. PEFT writes the embedding's as a string where the config named none."""
    names = [embedding] if value is None else value if isinstance(value, list) else [value]
    ends = {end: path for path in (embedding, head) for end in suffixes(path)}
    foreign = [name for name in names if not isinstance(name, str) or name not in ends]
    if foreign or not names:
        raise AdapterRefused(
            f"target_modules is {quoted(value)}; tokens are trained in {embedding} or {head}.",
            "target_modules",
        )
    return frozenset(ends[str(name)] for name in names)


TRAINABLE_TOKENS = Family(
    name="trainable_tokens",
    title="Trainable tokens",
    peft_type="TRAINABLE_TOKENS",
    status="served",
    formula="E[t] of some tokens t replaced, with a tied head also its rows",
    lowering="the rows and which they are",
    rank_after="none",
    memory="D for each token",
    paper_url="https://huggingface.co/docs/peft/package_reference/trainable_tokens",
    keys=KEYS,
    plan=plan_trainable_tokens,
)
