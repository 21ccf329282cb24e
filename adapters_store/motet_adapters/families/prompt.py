"""Families that put virtual tokens before the prompt and leave the model's weights alone.

As embeddings: prompt tuning (arXiv 2104.08691), P-tuning (arXiv 2103.10385), CPT (arXiv
2410.17222). As keys and values: prefix tuning (arXiv 2101.00190), Cartridges (arXiv 2506.06266).
PEFT saves what its encoders make, so nothing of them is left to run.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import COMMON, ConfigKeys, require_causal
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, Lower, PartSpec, Read, SitePlan
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor

_TENSOR = "prompt_embeddings"
_PREFIX_SITE = "prefix"
_MOST_TOKENS = 1 << 20  # only a bound on what is read: no base has as many positions

_SERVED = frozenset(
    {
        "peft_type",
        "task_type",
        "num_virtual_tokens",
        "num_transformer_submodules",
        "num_layers",
        "num_attention_heads",
        "token_dim",
    }
)
_REFUSED = {
    "modules_to_save": "virtual tokens are served alone; train without modules_to_save",
}
_INIT = frozenset(  # how training began
    {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
)
_ENCODER = frozenset(  # what made the embeddings that were saved
    {
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
    }
)
_LOSS = frozenset(
    {
        "cpt_token_ids",
        "cpt_mask",
        "cpt_tokens_type_mask",
        "opt_weighted_loss_type",
        "opt_loss_decay_factor",
        "opt_projection_epsilon",
        "opt_projection_format_epsilon",
        "tokenizer_name_or_path",
    }
)


def plan_embeddings(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """Prompt tuning and its like: rows [P, D] that the model takes for embeddings."""
    count = _num_virtual_tokens(fields)
    _require(fields, "token_dim", base.hidden_size)
    shape = (count, base.hidden_size)
    parts = {"embeddings": PartSpec(shape)}
    return _plan(_kind(fields), count, shape, parts, _lower_embeddings)


def plan_keys(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """Prefix tuning and its like: [P, 2 * layers * Hkv * D], for each layer keys, then values."""
    count = _num_virtual_tokens(fields)
    num_layers, num_heads, head_size = base.attention_shape()
    _require(fields, "num_layers", num_layers)
    _require(fields, "num_attention_heads", num_heads)
    _require(fields, "token_dim", num_heads * head_size)
    shape = (count, 2 * num_layers * num_heads * head_size)
    part = PartSpec((count, num_heads, head_size))
    parts = {f"{kind}.{layer}": part for layer in range(num_layers) for kind in ("keys", "values")}
    lower = partial(_lower_keys, num_layers, num_heads, head_size)
    return _plan(_kind(fields), count, shape, parts, lower)


def _plan(
    kind: str,
    num_tokens: int,
    shape: tuple[int, ...],
    parts: Mapping[str, PartSpec],
    lower: Lower,
) -> AdapterPlan:
    site = SitePlan(_PREFIX_SITE, {_TENSOR: shape}, parts, lower)
    return AdapterPlan(kind, (site,), num_virtual_tokens=num_tokens)


def _lower_embeddings(read: Read) -> dict[str, Tensor]:
    return {"embeddings": read(_TENSOR)}


def _lower_keys(num_layers: int, num_heads: int, head_size: int, read: Read) -> dict[str, Tensor]:
    stored = read(_TENSOR)
    pairs = stored.view(len(stored), num_layers, 2, num_heads, head_size).unbind(1)
    parts: dict[str, Tensor] = {}
    for layer, pair in enumerate(pairs):
        parts[f"keys.{layer}"], parts[f"values.{layer}"] = pair[:, 0], pair[:, 1]
    return parts


def _kind(fields: Fields) -> str:
    return str(fields.get("peft_type")).lower().replace("_", "-")


def _num_virtual_tokens(fields: Fields) -> int:
    require_causal(fields, "virtual tokens")
    _require(fields, "num_transformer_submodules", 1)
    param = "num_virtual_tokens"
    return fields.integer(fields.get(param), param, 1, _MOST_TOKENS)


def _require(fields: Fields, key: str, expected: int) -> None:
    """Raises AdapterRefused for a number that is there and is another."""
    value = fields.get(key)
    if value is not None and value != expected:
        raise AdapterRefused(
            f"{key} is {quoted(value)}, but this base needs {expected}. Serve the base the adapter "
            "was trained on.",
            key,
        )


PROMPT_TUNING = Family(
    name="prompt-tuning",
    title="prompt tuning",
    peft_type="PROMPT_TUNING",
    status="served",
    formula="P embeddings before the prompt's; the prompt begins at position P",
    lowering="the embeddings as they are; the model computes their keys and values once",
    rank_after="none",
    memory="P D, and a KV cache of P positions while it is in use",
    paper_url="https://arxiv.org/abs/2104.08691",
    keys=ConfigKeys(_SERVED, COMMON | _INIT, _REFUSED),
    plan=plan_embeddings,
)

P_TUNING = Family(
    name="p-tuning",
    title="P-tuning",
    peft_type="P_TUNING",
    status="served",
    formula="as prompt tuning, the embeddings made by an encoder in training",
    lowering="what the encoder made, which PEFT saves; the model computes keys and values once",
    rank_after="none",
    memory="P D, and a KV cache of P positions while it is in use",
    paper_url="https://arxiv.org/abs/2103.10385",
    keys=ConfigKeys(_SERVED, COMMON | _ENCODER, _REFUSED),
    plan=plan_embeddings,
)

CPT = Family(
    name="cpt",
    title="CPT (context-aware prompt tuning)",
    peft_type="CPT",
    status="served",
    formula="as prompt tuning, begun from the examples' tokens",
    lowering="the embeddings as they are; the model computes their keys and values once",
    rank_after="none",
    memory="P D, and a KV cache of P positions while it is in use",
    paper_url="https://arxiv.org/abs/2410.17222",
    keys=ConfigKeys(_SERVED, COMMON | _LOSS, _REFUSED),
    plan=plan_embeddings,
)

PREFIX_TUNING = Family(
    name="prefix-tuning",
    title="prefix tuning",
    peft_type="PREFIX_TUNING",
    status="served",
    formula="P keys and values a layer before the prompt's; the prompt begins at position P",
    lowering="into the KV cache as they are, without rotary embedding, once for all requests",
    rank_after="none",
    memory="2 P layers Hkv D, and a KV cache of P positions while it is in use",
    paper_url="https://arxiv.org/abs/2101.00190",
    keys=ConfigKeys(
        _SERVED,
        COMMON | frozenset({"prefix_projection", "encoder_hidden_size", "init_weights"}),
        _REFUSED,
    ),
    plan=plan_keys,
)

CARTRIDGE = Family(
    name="cartridge",
    title="Cartridges",
    peft_type="CARTRIDGE",
    status="served",
    formula="as prefix tuning, begun from a text's own keys and values",
    lowering="into the KV cache as they are, once for all requests",
    rank_after="none",
    memory="2 P layers Hkv D, and a KV cache of P positions while it is in use",
    paper_url="https://arxiv.org/abs/2506.06266",
    keys=ConfigKeys(_SERVED, COMMON | frozenset({"num_frozen_tokens"}), _REFUSED),
    plan=plan_keys,
)

MULTITASK_PROMPT_TUNING = Family(
    name="multitask-prompt-tuning",
    title="multitask prompt tuning",
    peft_type="MULTITASK_PROMPT_TUNING",
    status="refused",
    formula="embeddings (E * u_t v_t) of a task t that each request names",
    lowering="none",
    rank_after="none",
    memory="none",
    paper_url="https://arxiv.org/abs/2303.02861",
    fix=(
        "a request would have to name a task; save the product of one task as PROMPT_TUNING and "
        "upload that"
    ),
)
