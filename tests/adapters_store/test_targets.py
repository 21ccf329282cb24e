"""Targets and patterns against PEFT's own functions, on random configs over Llama-like names."""

import json
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motet_adapters import AdapterRefused
from motet_adapters.config import read_config
from motet_adapters.families.lora_config import lora_settings
from motet_adapters.families.modules import targeted_modules
from motet_adapters.limits import Limits
from motet_adapters.patterns import Pattern, is_plain_name
from motet_adapters.targets import TargetSpec, layer_of, targeted, unknown_names
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

MODULES = [
    *(
        f"model.layers.{layer}.{part}"
        for layer in (0, 1, 10, 11)
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.experts.1.up_proj", "mlp.proj")
    ),
    "model.vision.blocks.0.attn.q_proj",
    "layers.1.q_proj",
    "q_proj",
    "proj",
]
PARTS = ["q_proj", "v_proj", "proj", "up_proj", "1.up_proj", "0", "1", "layers", "model", "attn"]
NAMES = st.one_of(
    st.sampled_from(PARTS + MODULES + [module.partition(".")[2] for module in MODULES[:6]]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map(".".join),
)


@settings(max_examples=300, deadline=None)
@given(
    names=st.lists(NAMES, min_size=1, max_size=4),
    exclude=st.lists(NAMES, max_size=2),
    layers=st.none() | st.lists(st.sampled_from([0, 1, 10, 11]), min_size=1, max_size=3),
    patterns=st.lists(st.sampled_from(["layers", "blocks", "experts", "h"]), max_size=2),
)
def test_targets_are_those_of_peft(
    names: list[str], exclude: list[str], layers: list[int] | None, patterns: list[str]
) -> None:
    if layers is None:
        patterns = []
    spec = TargetSpec(
        names=tuple(names),
        exclude=tuple(exclude),
        layers=None if layers is None else frozenset(layers),
        layers_pattern=tuple(patterns),
    )
    config = SimpleNamespace(
        target_modules=set(names),
        exclude_modules=set(exclude),
        layers_to_transform=layers,
        layers_pattern=patterns,
        target_parameters=None,
        modules_to_save=None,
    )
    assert targeted(spec, MODULES) == [
        module for module in MODULES if check_target_module_exists(config, module)
    ]


@settings(max_examples=300, deadline=None)
@given(
    keys=st.lists(NAMES | NAMES.map("^{}".format) | NAMES.map(r".*\.{}".format), max_size=4),
    module=st.sampled_from(MODULES),
)
def test_pattern_keys_match_as_in_peft(keys: list[str], module: str) -> None:
    # PEFT returns the module itself when nothing matches.
    expected = get_pattern_key(keys, module)
    assert Pattern({key: key for key in keys}, "rank_pattern").find(module, module) == expected


def test_an_unescaped_dot_matches_what_it_matches_in_peft() -> None:
    assert get_pattern_key(["a.c"], "x.abc") == "a.c"
    assert Pattern({"a.c": 1}, "rank_pattern").find("x.abc", 0) == 1
    assert Pattern({"a.c": 1}, "rank_pattern").find("xabc", 0) == 0


def test_the_longest_pattern_allowed_costs_little() -> None:
    """As many keys as are accepted, made to agree with the modules up to the last letter."""
    keys = {f"{index:09d}.q_proj"[-16:]: 4 for index in range(1024)}
    text = json.dumps(
        {"peft_type": "LORA", "target_modules": ["q_proj"], "rank_pattern": keys}
    ).encode()
    modules = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(500)]
    start = time.process_time()
    parsed = lora_settings(read_config(text), Limits())
    assert [parsed.rank_of(module) for module in modules] == [8] * 500
    assert time.process_time() - start < 2
    with pytest.raises(AdapterRefused, match="over the limit"):
        Pattern({f"m{index}": 4 for index in range(1025)}, "rank_pattern")


def test_a_name_that_stands_for_nothing_is_told() -> None:
    spec = TargetSpec(names=("q_proj", "lm_head", "self_attn"))
    assert unknown_names(spec, MODULES) == ["lm_head", "self_attn"]


def test_all_linear_targets_everything_not_excluded() -> None:
    spec = TargetSpec(expression="All-Linear", exclude=("q_proj",))
    assert not spec.is_expression
    assert targeted(spec, MODULES) == [m for m in MODULES if not m.endswith("q_proj")]


def test_a_module_without_a_number_is_in_no_layer() -> None:
    assert layer_of("model.q_proj") is None
    assert layer_of("model.q_proj", ("layers",)) is None


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a*", "^a", "a/b", "a" * 513, "ä"]
)
def test_names_that_are_not_plain(name: str) -> None:
    assert not is_plain_name(name)


def keys_of(*modules: str) -> list[str]:
    return [f"base_model.model.{module}.lora_A.weight" for module in modules]


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_an_expression_is_never_run(key: str) -> None:
    """What it matched is read off the file. In PEFT this one runs for hours."""
    values = {"peft_type": "LORA", "target_modules": ["proj", "q_proj"], key: "(([a-z_0-9.])+)+!"}
    spec = lora_settings(read_config(json.dumps(values).encode()), Limits()).targets
    assert spec.is_expression
    trained = [module for module in MODULES[:16] if module.endswith("q_proj")]
    copies = [f"base_model.model.{MODULES[1]}.bias", "base_model.model.foreign.lora_A.weight"]
    assert targeted_modules(spec, MODULES[:16], [*keys_of(*trained), *copies]) == trained
    with pytest.raises(AdapterRefused, match="No module"):
        targeted_modules(spec, MODULES[:16], keys_of("foreign"))
