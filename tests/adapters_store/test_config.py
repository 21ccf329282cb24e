"""adapter_config.json: every key is served, harmless or refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
from motet_adapters import AdapterRefused, Limits
from motet_adapters.config import read_config
from motet_adapters.families import find_family
from motet_adapters.families.lora_config import KEYS, LoraSettings, lora_settings
from peft import LoraConfig

VALID: dict[str, object] = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}


def parsed(**changes: object) -> LoraSettings:
    return parse_config(json.dumps({**VALID, **changes}).encode())


def parse_config(text: bytes) -> LoraSettings:
    """As an upload's config is read, if it is of the LORA families."""
    fields = read_config(text)
    keys = find_family(fields, {}).keys
    assert keys is KEYS
    keys.require_known(fields)
    return lora_settings(fields, Limits())


def refusal(**changes: object) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        parsed(**changes)
    return caught.value


def test_what_peft_writes_by_default_is_accepted(tmp_path: Path) -> None:
    LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    settings = parse_config((tmp_path / "adapter_config.json").read_bytes())
    assert (settings.kind, settings.rank, settings.alpha) == ("lora", 4, 8.0)


def test_every_key_of_peft_is_known_and_in_one_list() -> None:
    ours = [*KEYS.served, *KEYS.harmless, *KEYS.refused]
    assert len(ours) == len(set(ours))
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= set(ours)


def test_settings_follow_the_config() -> None:
    settings = parsed(
        use_rslora=True,
        lora_alpha=16,
        rank_pattern={"layers.0.self_attn.q_proj": 9},
        alpha_pattern={"^model.layers.1.self_attn.q_proj": 3.5},
    )
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    assert settings.kind == "rslora"
    assert (settings.rank_of(first), settings.rank_of(second)) == (9, 4)
    assert (settings.scale_of(first, 9), settings.scale_of(second, 4)) == (16 / 3, 3.5 / 2)
    assert parsed(use_dora=True, use_rslora=True).kind == "dora"


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica", "EVA"])
def test_inits_that_leave_the_base_alone_are_accepted(init: object) -> None:
    assert parsed(init_lora_weights=init).rank == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "NEWLORA"),
        ("peft_type", None),
        ("peft_type", ["LORA"]),
        ("task_type", "SEQ_CLS"),
        ("bias", "some"),
        ("bias", None),
        ("lora_bias", 1),
        ("fan_in_fan_out", 1),
        ("layer_replication", [[0, 4], [2, 5]]),
        ("megatron_config", {"hidden_size": 4}),
        ("monteclora_config", {"num_samples": 4}),
        ("arrow_config", {"top_k": 3}),
        ("enable_lora", [True, False, True]),
        ("init_lora_weights", 7),
        ("init_lora_weights", None),
        ("r", 0),
        ("r", -1),
        ("r", True),
        ("r", 4.0),
        ("r", "4"),
        ("r", None),
        ("r", 257),
        ("r", 10**4000),
        ("lora_alpha", 0),
        ("lora_alpha", -8),
        ("lora_alpha", True),
        ("lora_alpha", 10**4000),
        ("lora_alpha", "8"),
        ("use_dora", "yes"),
        ("use_dora", 1),
        ("use_rslora", {}),
        ("target_modules", None),
        ("target_modules", []),
        ("target_modules", {"q_proj": 1}),
        ("target_modules", ["q_proj", 3]),
        ("target_modules", [".*"]),
        ("target_modules", ["q_proj\n"]),
        ("exclude_modules", [".*"]),
        ("layers_to_transform", [True]),
        ("layers_to_transform", [-1]),
        ("layers_to_transform", "0"),
        ("layers_to_transform", [0.5]),
        ("layers_pattern", "layers"),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 300}),
        ("rank_pattern", {"q_proj": True}),
        ("rank_pattern", {".*q_proj": 4}),
        ("rank_pattern", {"(([a-z_0-9.])+)+!": 4}),
        ("rank_pattern", {"": 4}),
        ("alpha_pattern", {"q_proj|v_proj": 4}),
        ("alpha_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": None}),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(key: str, value: object) -> None:
    error = refusal(**{key: value})
    assert error.param == key
    assert error.code == "adapter_refused"
    assert len(error.message) < 700


def test_layers_to_transform_needs_names() -> None:
    assert refusal(target_modules="all-linear", layers_to_transform=[0]).param == (
        "layers_to_transform"
    )
    assert refusal(layers_to_transform=[0], layers_pattern=["a.b"]).param == "layers_pattern"
    assert refusal(layers_to_transform=[0], layers_pattern=3).param == "layers_pattern"


def test_unknown_keys_are_refused_with_their_names() -> None:
    error = refusal(use_newlora=True, other=1)
    assert "'use_newlora'" in error.message
    assert "'other'" in error.message


@pytest.mark.parametrize(
    "key", ["auto_mapping", "loftq_config", "eva_config", "velora_config", "lora_dropout"]
)
def test_keys_without_influence_are_accepted(key: str) -> None:
    assert parsed(**{key: {"anything": [1, 2]}}).kind == "lora"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"LORA"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"peft_type": "LORA", "peft_type": "LORA"}',
        b'{"eva_config": {"a": 1, "a": 2}}',
        b'{"lora_alpha": NaN}',
        b'{"lora_alpha": Infinity}',
        b'{"lora_alpha": -Infinity}',
        b'{"lora_alpha": 1e400}',
        b'{"auto_mapping": ' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"auto_mapping": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"r": ' + b"9" * 5000 + b"}",
        b'{"peft_type": "LORA"',
    ],
)
def test_hostile_json_is_refused(text: bytes) -> None:
    with pytest.raises(AdapterRefused):
        parse_config(text)


def test_messages_show_foreign_text_escaped_and_short() -> None:
    message = refusal(bias="x\n\x1b[31m\u202e" + "y" * 10_000).message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 400
