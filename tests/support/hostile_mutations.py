"""Valid uploads bent at random: in their bytes, their JSON, their numbers, or their form."""

import json
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.hostile_files import SLOW_EXPRESSIONS, Header, safetensors, taken_apart

BOUNDARY = "a-boundary-of-the-tests"

_BASE = RandomBase.llama()
_VALID = [
    (files.config_bytes, files.weights_bytes)
    for files in (
        random_adapter(_BASE, rank=2),
        random_adapter(_BASE, rank=3, dora=True, rslora=True, dtype=torch.bfloat16),
        random_adapter(_BASE, rank=1, targets=("o_proj", "up_proj"), dtype=torch.float16),
        random_adapter(
            _BASE,
            targets=("q_proj", "down_proj"),
            config={"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"0.mlp.down_proj": 4}},
        ),
    )
]
_KEYS = (
    *("r", "lora_alpha", "target_modules", "exclude_modules", "use_dora", "use_rslora", "bias"),
    *("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "peft_type"),
    *("task_type", "init_lora_weights", "fan_in_fan_out", "modules_to_save", "runtime_config"),
    *("loftq_config", "auto_mapping", "base_model_name_or_path", "auto_map", "unheard_of"),
)
_WORDS = st.sampled_from(
    [
        *("q_proj", "v_proj", "lm_head", "0.mlp.down_proj", "^q_proj", "layers", "all-linear"),
        *("LORA", "pissa", "none", "", ".", "..", "../x", "a\0b", "\ud800", *SLOW_EXPRESSIONS),
    ]
)
_NUMBERS = st.one_of(
    st.integers(-2, 300),
    st.sampled_from([2**31, 2**40, 2**63, 2**64, -(2**63), 10**400]),
    st.floats(),
)
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=20), _WORDS)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=9), inner)
    ),
    max_leaves=12,
)
_PLACES = st.floats(0, 1, exclude_max=True)
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "remove", "repeat", "flip"]),
        _PLACES,
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
_VALUES = st.sampled_from(
    [0.0, -0.0, 1e-45, 1e-38, 1.0, 6.5e4, 1e5, 1e20, 3.4e38, float("inf"), float("nan")]
)


class Upload(NamedTuple):
    """config, weights: what was put into the form; the form itself may be bent, too."""

    what: str
    config: bytes
    weights: bytes
    body: bytes


def form(config: bytes, weights: bytes) -> bytes:
    return (
        b"".join(
            b'--%b\r\nContent-Disposition: form-data; name="x"; filename="%b"\r\n\r\n%b\r\n'
            % (BOUNDARY.encode(), name.encode(), data)
            for name, data in ((CONFIG_FILE, config), (WEIGHTS_FILE, weights))
        )
        + b"--%b--\r\n" % BOUNDARY.encode()
    )


@st.composite
def uploads(draw: st.DrawFn, valid: Sequence[tuple[bytes, bytes]] = _VALID) -> Upload:
    """At least one thing about each differs from one of these valid uploads."""
    config, weights = draw(st.sampled_from(valid))
    what = draw(st.sampled_from(sorted(_BENDS)))
    config, weights = _BENDS[what](draw, config, weights)
    body = form(config, weights)
    if what == "form":
        body = _edited(draw, body)
    return Upload(what, config, weights, body)


_Bend = Callable[[st.DrawFn, bytes, bytes], tuple[bytes, bytes]]


def _config_bytes(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    return _edited(draw, config), weights


def _config_keys(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    changes = draw(st.dictionaries(st.sampled_from(_KEYS), _JSON, min_size=1, max_size=3))
    values = {**json.loads(config), **changes}
    for key in draw(st.lists(st.sampled_from(_KEYS), max_size=2)):
        values.pop(key, None)
    return json.dumps(values).encode(), weights


def _own_key(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """One of those that are in this config, and may be another family's alone."""
    values = json.loads(config)
    values[draw(st.sampled_from(sorted(values)))] = draw(_JSON)
    return json.dumps(values).encode(), weights


def _config_anew(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    return json.dumps(draw(_JSON)).encode(), weights


def _weights_bytes(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    return config, _edited(draw, weights)


def _header_bytes(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(weights[:8], "little")
    return config, safetensors(_edited(draw, weights[8:end]), weights[end:])


def _header_entries(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    header, data = taken_apart(weights)
    for _ in range(draw(st.integers(1, 3))):
        _bend_entry(draw, header)
    return config, safetensors(json.dumps(header).encode(), data)


def _header_anew(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    _, data = taken_apart(weights)
    return config, safetensors(json.dumps(draw(_JSON)).encode(), data)


def _numbers(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """One number, four bytes wide whatever the tensors' dtype: any two bfloat16 are legal."""
    header, data = taken_apart(weights)
    bent = bytearray(data)
    at = int(draw(_PLACES) * (len(data) // 4)) * 4
    bent[at : at + 4] = struct.pack("<f", draw(_VALUES))
    return config, safetensors(json.dumps(header).encode(), bytes(bent))


def _nothing(draw: st.DrawFn, config: bytes, weights: bytes) -> tuple[bytes, bytes]:
    return config, weights


_BENDS: dict[str, _Bend] = {
    "config's bytes": _config_bytes,
    "config's keys": _config_keys,
    "a key of its own": _own_key,
    "config made up": _config_anew,
    "weights' bytes": _weights_bytes,
    "header's bytes": _header_bytes,
    "header's entries": _header_entries,
    "header made up": _header_anew,
    "numbers": _numbers,
    "form": _nothing,
}


def _bend_entry(draw: st.DrawFn, header: Header) -> None:
    name = draw(st.sampled_from(sorted(header)))
    kind = draw(
        st.sampled_from(["rename", "drop", "copy", "dtype", "shape", "data_offsets", "set"])
    )
    entry = header[name]
    if kind == "rename":
        header[draw(_WORDS)] = header.pop(name)
    elif kind == "drop" and len(header) > 1:
        del header[name]
    elif kind == "copy":
        header[name + draw(_WORDS)] = entry
    elif kind == "set":
        header[name] = draw(_JSON)
    elif isinstance(entry, dict):
        dtypes = st.sampled_from(["F16", "BF16", "F32", "F64", "I32", "U8"])
        numbers = st.lists(st.integers(-1, 3000) | _NUMBERS, max_size=3)
        header[name] = {**entry, kind: draw(dtypes if kind == "dtype" else numbers | _JSON)}


def _edited(draw: st.DrawFn, original: bytes) -> bytes:
    target = bytearray(original)
    for kind, place, data in draw(_EDITS):
        at = int(place * len(target))
        if kind == "set":
            target[at : at + len(data)] = data[: len(target) - at]
        elif kind == "cut":
            del target[at:]
        elif kind == "insert":
            target[at:at] = data
        elif kind == "remove":
            del target[at : at + len(data)]
        elif kind == "repeat":
            target[at:at] = target[at : at + 50]
        elif target:
            target[at] ^= 1 << (data[0] % 8)
    return bytes(target)
