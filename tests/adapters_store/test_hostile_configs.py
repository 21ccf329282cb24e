"""The most work a config within its limits can make, on a base of 126 layers: still modest."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from motet_adapters.config import read_config
from motet_adapters.errors import AdapterRefused
from motet_adapters.families import plan_upload
from motet_adapters.limits import Limits
from motet_adapters.matching import require_match

from tests.support.base_weights import RandomBase
from tests.support.hostile_costs import counted

LIMITS = Limits()
PROJECTIONS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)


class LargeBase(RandomBase):
    """The names of the largest dense models; no weight is asked for."""

    def __init__(self) -> None:
        super().__init__({}, dense={"model.embed_tokens": torch.empty(8, 16)})
        self._paths = tuple(
            f"model.layers.{layer}.{name}" for layer in range(126) for name in PROJECTIONS
        )

    def modules(self) -> Sequence[str]:
        return self._paths

    def shape(self, module: str) -> tuple[int, int]:
        return 16384, 16384


# A dot stands for any character, so these differ from a path only at their ends.
_ENDS = ["".join(end) for end in itertools.product("ab", repeat=10)]
_LATE = dict.fromkeys((f"m.d.l.l.y.r.s.1.0.s.l.{end}" for end in _ENDS), 4)
_DOTTED = dict.fromkeys((".".join(end) for end in _ENDS), 4)
_MANY = [f"x{number}" for number in range(25_000)]

HEAVY: dict[str, dict[str, object]] = {
    "patterns that differ late": {"rank_pattern": _LATE, "alpha_pattern": _LATE},
    "patterns of dots": {"rank_pattern": _DOTTED, "alpha_pattern": _DOTTED},
    "targets": {"target_modules": ["q_proj", *_MANY]},
    "exclusions": {"exclude_modules": _MANY},
    "layers": {"layers_to_transform": [0] * 80_000},
    "lists of layers": {"layers_to_transform": [0], "layers_pattern": ["a"] * 50_000},
    "lists of layers, as many as may be": {
        "layers_to_transform": [0],
        "layers_pattern": ["a"] * 32,
    },
    "notes": {"auto_mapping": [[0] * 1000] * 60},
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_config_is_refused_in_time(tmp_path: Path, name: str) -> None:
    values = {
        "peft_type": "LORA",
        "r": 8,
        "target_modules": [each.rpartition(".")[2] for each in PROJECTIONS],
        **HEAVY[name],
    }
    text = json.dumps(values, separators=(",", ":")).encode()
    assert len(text) <= LIMITS.max_config_bytes
    base = LargeBase()
    with counted() as costs, pytest.raises(AdapterRefused):
        require_match(plan_upload(read_config(text), {}, base, LIMITS), {}, LIMITS)
    costs.require_modest(tmp_path)
