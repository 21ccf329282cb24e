"""Where fuzzing begins: valid files of the fuzzed base, and the hostile corpus."""

import json

import torch

from tests.support.adapter_files import random_adapter
from tests.support.base_weights import RandomBase
from tests.support.hostile_files import corpus

_MAX_BYTES = 100_000
_BASE = RandomBase.llama(layers=2, hidden=4, kv=2, ffn=6)


def seeds(reader: str) -> list[bytes]:
    """For one of the `Readers`. The first is valid; none is too large to be mutated quickly."""
    valid = [
        random_adapter(_BASE, rank=1),
        random_adapter(_BASE, rank=2, dora=True, rslora=True, dtype=torch.bfloat16),
        random_adapter(_BASE, targets=("down_proj",), dtype=torch.float16),
        random_adapter(_BASE, config=_EVERY_KEY),
    ]
    hostile = corpus().values()
    if reader == "config":
        found = [files.config_bytes for files in valid] + [case.config for case in hostile]
    else:
        found = [files.weights_bytes for files in valid] + [case.weights for case in hostile]
    if reader == "header-text":
        found = [_header_text(weights) for weights in found]
    return [seed for seed in found if len(seed) <= _MAX_BYTES]


def _header_text(weights: bytes) -> bytes:
    return weights[8 : 8 + int.from_bytes(weights[:8], "little")]


def dictionary(reader: str) -> list[bytes]:
    """Words the grammar of a file is made of, for the fuzzer to put in."""
    words = ["dtype", "shape", "data_offsets", "__metadata__", "F32", "F16", "BF16"]
    if reader == "config":
        words = [*_EVERY_KEY, "peft_type", "LORA", "r", "lora_alpha", "all-linear", "use_dora"]
    numbers = ["NaN", "1e400", "9223372036854775808", "\\ud800", "\\u0000"]
    return [json.dumps(word).encode() for word in words] + [each.encode() for each in numbers]


_EVERY_KEY: dict[str, object] = {
    "rank_pattern": {"q_proj": 4, "^model.layers.0.self_attn.v_proj": 4},
    "alpha_pattern": {"layers.0.self_attn.q_proj": 2.5},
    "layers_to_transform": [0, 1],
    "layers_pattern": ["layers"],
    "exclude_modules": ["k_proj"],
    "init_lora_weights": "gaussian",
    "modules_to_save": None,
    "loftq_config": {},
    "auto_mapping": None,
    "target_modules": ["q_proj", "v_proj"],
}
