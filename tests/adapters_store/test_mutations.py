"""Mutations of valid uploads: accepted with the meaning the files have, or an AdapterError.

Never another exception, and never a change on disk when refused. The meaning of the files is what
the safetensors library and plain arithmetic make of them.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from motet_adapters import Adapter, AdapterError, AdapterStore, Limits
from safetensors.torch import load
from torch import Tensor

from tests.support.adapter_files import PREFIX, put_bytes, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.disk_state import disk_state

BASE = RandomBase.llama(layers=1, hidden=8, kv=4, ffn=12)
LIMITS = Limits(max_upload_bytes=100_000, max_config_bytes=5000, max_header_bytes=20_000)
VALID = [
    (files.config_bytes, files.weights_bytes)
    for files in (
        random_adapter(BASE, rank=2),
        random_adapter(BASE, rank=3, dora=True, rslora=True, dtype=torch.bfloat16),
        random_adapter(
            BASE,
            targets=("q_proj", "down_proj"),
            config={"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"0.mlp.down_proj": 4}},
        ),
    )
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["all-linear", ".*", "q_proj", "LORA", "pissa", "none"]),
    st.lists(st.sampled_from(["q_proj", "v_proj", "lm_head", ".*"]), max_size=3),
    st.lists(st.integers(0, 2), max_size=3),
    st.dictionaries(st.sampled_from(["q_proj", "v_proj", ".*", "a b"]), st.integers(0, 9)),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(root: Path) -> Iterator[AdapterStore]:
    store = AdapterStore(root, BASE, dtype=torch.float32, limits=LIMITS, host_bytes=1 << 20)
    put_bytes(store, *VALID[0], name="kept")
    yield store
    store.close()


def outcome(store: AdapterStore, root: Path, config: bytes, weights: bytes) -> Adapter | None:
    """The adapter if accepted. Its meaning, or that nothing changed, is asserted here."""
    before = disk_state(root)
    try:
        adapter = put_bytes(store, config, weights, name="mutated")
    except AdapterError as error:
        require_clean(error, root, before)
        event(f"refused: {error.param}")
        return None
    require_meaning(store, adapter, json.loads(config), load(weights))
    store.delete("acme", "mutated")
    assert disk_state(root) == before
    event("accepted")
    return adapter


def require_clean(error: AdapterError, root: Path, before: object) -> None:
    assert disk_state(root) == before
    assert error.message.isascii()
    assert str(root) not in error.message
    assert len(error.message) < 3000


def require_meaning(
    store: AdapterStore, adapter: Adapter, config: dict[str, object], tensors: dict[str, Tensor]
) -> None:
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    parts = 3 if config.get("use_dora") else 2
    assert len(tensors) == parts * len(views)
    for module, found in views.items():
        a, bt, gain = found.tensors["a"], found.tensors["bt"], found.tensors.get("gain")
        raw_a = tensors[f"{PREFIX}{module}.lora_A.weight"].float()
        raw_b = tensors[f"{PREFIX}{module}.lora_B.weight"].float()
        assert torch.equal(a, raw_a)
        assert torch.isfinite(bt).all()
        scale = scale_of(config, module, raw_a.shape[0])
        assert torch.allclose(bt, raw_b.t() * scale, rtol=1e-6, atol=0)
        assert (gain is not None) == bool(config.get("use_dora"))
        if gain is not None:
            weight = BASE.weight(module).double() + (bt.t().double() @ a.double())
            magnitude = next(
                tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{PREFIX}{module}.lora_magnitude_vector")
            )
            expected = magnitude.double() / weight.norm(dim=1)
            assert torch.allclose(gain.double(), expected, rtol=1e-3)


def scale_of(config: dict[str, object], module: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    alpha = config.get("lora_alpha", 8)
    assert isinstance(patterns, dict)
    for key, value in patterns.items():
        if f".{module}".endswith(f".{key}") or key == f"^{module}":
            alpha = value
            break
    assert isinstance(alpha, (int, float))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def test_the_valid_ones_are_accepted(store: AdapterStore, root: Path) -> None:
    for config, weights in VALID:
        adapter = put_bytes(store, config, weights, name="valid")
        require_meaning(store, adapter, json.loads(config), load(weights))


RELAXED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@RELAXED
@given(
    which=st.integers(0, len(VALID) - 1),
    edits=st.lists(
        st.tuples(
            st.sampled_from(["set", "cut", "insert", "remove", "repeat"]),
            st.floats(0, 1, exclude_max=True),
            st.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=3,
    ),
    in_weights=st.booleans(),
    in_header=st.booleans(),
)
def test_mutated_bytes(
    store: AdapterStore,
    root: Path,
    which: int,
    edits: list[tuple[str, float, bytes]],
    in_weights: bool,
    in_header: bool,
) -> None:
    config, weights = VALID[which]
    target = bytearray(weights if in_weights else config)
    for kind, place, data in edits:
        length = len(target)
        if in_weights and in_header:
            length = min(length, 8 + int.from_bytes(weights[:8], "little"))
        at = int(place * length)
        if kind == "set":
            target[at : at + len(data)] = data[: len(target) - at]
        elif kind == "cut":
            del target[at:]
        elif kind == "insert":
            target[at:at] = data
        elif kind == "remove":
            del target[at : at + len(data)]
        else:
            target[at:at] = target[at : at + 50]
    mutated = bytes(target)
    if in_weights:
        outcome(store, root, config, mutated)
    else:
        outcome(store, root, mutated, weights)


KEYS = [
    *("r", "lora_alpha", "target_modules", "exclude_modules", "use_dora", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "bias"),
    *("peft_type", "task_type", "init_lora_weights", "fan_in_fan_out", "modules_to_save"),
    *("loftq_config", "auto_mapping", "base_model_name_or_path", "unheard_of"),
]


@RELAXED
@given(
    which=st.integers(0, len(VALID) - 1),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    removed=st.lists(st.sampled_from(KEYS), max_size=2),
)
def test_mutated_configs(
    store: AdapterStore, root: Path, which: int, changes: dict[str, object], removed: list[str]
) -> None:
    config, weights = VALID[which]
    values = {**json.loads(config), **changes}
    for key in removed:
        values.pop(key, None)
    outcome(store, root, json.dumps(values).encode(), weights)


@RELAXED
@given(
    which=st.integers(0, len(VALID) - 1),
    name=st.floats(0, 1, exclude_max=True),
    field=st.sampled_from(["name", "dtype", "shape", "data_offsets", "drop", "copy"]),
    value=st.one_of(
        VALUES,
        st.lists(st.integers(-1, 200), max_size=3),
        st.sampled_from(["F16", "BF16", "F32", "F64", "I32", "U8"]),
    ),
)
def test_mutated_headers(
    store: AdapterStore, root: Path, which: int, name: float, field: str, value: object
) -> None:
    config, weights = VALID[which]
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    names = [key for key in header if key != "__metadata__"]
    chosen = names[int(name * len(names))]
    if field == "name":
        header[str(value)] = header.pop(chosen)
    elif field == "drop":
        del header[chosen]
    elif field == "copy":
        header[chosen + ".weight"] = header[chosen]
    else:
        assume(header[chosen][field] != value)
        header[chosen][field] = value
    text = json.dumps(header).encode()
    mutated = len(text).to_bytes(8, "little") + text + weights[8 + length :]
    outcome(store, root, config, mutated)
