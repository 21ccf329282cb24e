"""Every family, with every key of its config set to what no library writes: planned or refused.

What another value means where PEFT takes it, is test_harmless_keys.py's."""

import dataclasses
import enum
from collections.abc import Iterator, Mapping

import pytest
import torch
from motet_adapters import AdapterRefused, Limits
from motet_adapters.config_fields import Fields
from motet_adapters.families import FAMILIES, Family, find_family, plan_upload
from motet_adapters.families.config_keys import is_set
from motet_adapters.lossy import LOSSY_KEY
from motet_adapters.matching import require_match
from motet_adapters.safetensors_file import StoredTensor
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tests.support.base_weights import RandomBase

BASE = RandomBase.llama(layers=1)
ODD: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**30, 0.5, -1e308, "", "x", "(a+)+!", "\ud800"),
    *([], [0], [[]], ["q_proj"], [None], {}, {"a": 1}, {"q_proj": []}, {"": {}}, [{"a": []}]),
)
_PROMPT: dict[str, object] = {
    "num_virtual_tokens": 4,
    "token_dim": 32,
    "num_layers": 1,
    "num_attention_heads": 1,
    "num_transformer_submodules": 1,
    "prompt_tuning_init": "RANDOM",
    "encoder_reparameterization_type": "MLP",
}
# What some families need to be known as such, or to be planned at all.
OWN: dict[str, dict[str, object]] = {
    **{name: {"init_lora_weights": name} for name in ("pissa", "olora", "milora", "eva", "mica")},
    "orthogonal-lora": {"init_lora_weights": "orthogonal"},
    "gaussian-lora": {"init_lora_weights": "gaussian"},
    "loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
    "nola": {"use_nola": True, "nola_device": "cpu"},
    "qalora": {"use_qalora": True},
    "bdlora": {"use_bdlora": {"nblocks": 2, "match_strict": False}},
    "kasa": {"kasa_config": {}},
    "alora": {"alora_invocation_tokens": [3]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "velora": {"velora_config": {}},
    "ln_tuning": {"target_modules": ["input_layernorm"]},
    "trainable_tokens": {"target_modules": "embed_tokens", "token_indices": [3]},
    "vblora": {"vector_length": 16, "num_vectors": 8},
}
UNCERTAIN = {"lora-plus", "qlora", "modulora"}
NEVER_PLANNED = {"bottleneck", "boft", "road"}  # with one value changed and one tensor
SERVED = [family for family in FAMILIES if family.keys is not None]


def values_of(family: Family) -> dict[str, object]:
    """A config as PEFT's defaults have it, on one module."""
    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(family.peft_type)
    values: dict[str, object] = {}
    for field in dataclasses.fields(config) if config is not None else ():
        value = field.default
        if value is dataclasses.MISSING:
            continue
        values[field.name] = value.value if isinstance(value, enum.Enum) else value
    values |= {"peft_type": family.peft_type, "target_modules": ["q_proj"], **_PROMPT}
    values["task_type"] = "CAUSAL_LM"
    assert family.keys is not None
    known = family.keys.served | family.keys.harmless
    values = {key: value for key, value in values.items() if key in known}
    # Those that only convert are asked to.
    return values | ({LOSSY_KEY: 4} if family.plan is None else {}) | OWN.get(family.name, {})


def bent(family: Family) -> Iterator[dict[str, object]]:
    assert family.keys is not None
    values = values_of(family)
    for key in sorted(family.keys.served | family.keys.harmless | family.keys.refused.keys()):
        for odd in ODD:
            yield values | {key: odd}


def stored(family: Family) -> dict[str, StoredTensor]:
    """One tensor, whose name the family knows itself by if it does so by one."""
    name = f"base_model.model.model.layers.0.self_attn.q_proj.{family.marker or 'lora_A.weight'}"
    return {name: StoredTensor(torch.float32, (1,), 0, 4)}


def is_of(family: Family, fields: Fields, tensors: Mapping[str, StoredTensor]) -> bool:
    """Nothing tells QLoRA and its like from LoRA."""
    try:
        found = find_family(fields, tensors)
    except AdapterRefused:
        return False
    return found.name == family.name or (found.name == "lora" and family.name in UNCERTAIN)


@pytest.mark.parametrize("family", SERVED, ids=[family.name for family in SERVED])
def test_odd_values_are_refused_or_planned(family: Family) -> None:
    assert family.keys is not None
    limits, tensors, messages, num_planned = Limits(), stored(family), [], 0
    for values in bent(family):
        fields = Fields(values)
        is_own = is_of(family, fields, tensors)
        refused = is_own and any(is_set(fields, key) for key in family.keys.refused)
        try:
            plan = plan_upload(fields, tensors, BASE, limits)
            assert not refused
            num_planned += is_own
            require_match(plan, tensors, limits)
        except AdapterRefused as error:
            messages.append(error.message)
    assert len(messages) > len(ODD) / 2
    assert num_planned or family.name in NEVER_PLANNED
    for message in messages:
        assert message.isascii()
        assert message.isprintable()
        assert len(message) < 4000
