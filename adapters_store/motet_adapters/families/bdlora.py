"""BD-LoRA (arXiv 2510.23346): one of the two factors is block-diagonal and stored as its blocks."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import is_set
from motet_adapters.families.family import Family
from motet_adapters.families.lora import lora_plan
from motet_adapters.families.lora_config import KEYS, LoraSettings
from motet_adapters.families.lora_factors import Factors, Linear, MakeFactors, plain_factors
from motet_adapters.families.plan import Read
from motet_adapters.names import listed, quoted

_KEY = "use_bdlora"
_KNOWN = frozenset({"target_modules_bd_a", "target_modules_bd_b", "nblocks", "match_strict"})
_MAX_BLOCKS = 1 << 16


class _Blocks(NamedTuple):
    number: int
    of_a: tuple[str, ...]  # parts of module names
    of_b: tuple[str, ...]
    is_strict: bool  # every target is one or the other

    def is_a(self, name: str) -> bool:
        return any(part in name for part in self.of_a)

    def is_b(self, name: str) -> bool:
        return any(part in name for part in self.of_b)


def block_diagonal(fields: Fields, settings: LoraSettings, _base: BaseWeights) -> MakeFactors:
    """A [r, K / n] or B [N, r / n]: n blocks, one below the other."""
    blocks = _blocks(fields)

    def factors(linear: Linear) -> Factors:
        trained = plain_factors(settings, linear)
        name = linear.path.rpartition(".")[2]
        is_a, is_b = blocks.is_a(name), blocks.is_b(name)
        if is_a and is_b:
            raise _refused(f"calls both factors of {quoted(name)} block-diagonal")
        if blocks.is_strict and not (is_a or is_b):
            raise _refused(f"has match_strict and calls no factor of {quoted(name)} block-diagonal")
        a, b = trained.tensors
        shapes = dict(trained.tensors)
        for key, is_blocked in ((a, is_a), (b, is_b)):
            rows, columns = shapes[key]
            if is_blocked:
                if rows % blocks.number or columns % blocks.number:
                    raise _refused(f"has {blocks.number} blocks, which do not divide {quoted(key)}")
                shapes[key] = (rows, columns // blocks.number)

        def make(read: Read) -> tuple[Tensor, Tensor]:
            stored_a, stored_b = trained.make(read)
            return (
                _whole(stored_a, blocks.number) if is_a else stored_a,
                _whole(stored_b, blocks.number) if is_b else stored_b,
            )

        return Factors(trained.rank, shapes, make)

    return factors


def _whole(stacked: Tensor, count: int) -> Tensor:
    whole: Tensor = torch.block_diag(*stacked.chunk(count, dim=0))  # type: ignore[no-untyped-call]
    return whole


def _blocks(fields: Fields) -> _Blocks:
    value = fields.get(_KEY)
    if not isinstance(value, Mapping):
        raise _refused("is not an object")
    unknown = [key for key in value if key not in _KNOWN]
    if unknown:
        raise _refused(f"has keys this server does not know: {listed(unknown)}")
    own = Fields(value)
    return _Blocks(
        fields.integer(own.get("nblocks", 1), _KEY, 1, _MAX_BLOCKS),
        own.names("target_modules_bd_a"),
        own.names("target_modules_bd_b"),
        own.get("match_strict", True) is not False,
    )


def _refused(what: str) -> AdapterRefused:
    return AdapterRefused(f"{_KEY} {what}. Correct it to what was trained.", _KEY)


BDLORA = Family(
    name="bdlora",
    title="BD-LoRA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + s B A x, A or B block-diagonal",
    lowering="a = A, b = s B, the blocks put in their places",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2510.23346",
    keys=KEYS,
    plan=lora_plan(block_diagonal, "bdlora"),
    claims=lambda fields: is_set(fields, _KEY),
)
