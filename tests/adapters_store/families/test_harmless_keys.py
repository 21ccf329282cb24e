"""Every key of PEFT's own config classes that a family calls harmless is: an adapter that was
trained with another value of it, or whose config says another, is served as PEFT computes it."""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterStore, Limits
from motet_adapters.families import FAMILIES, Family
from motet_adapters.families.config_keys import COMMON
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tests.adapters_store.families.test_lossy import CASES as LOSSY_CASES
from tests.adapters_store.families.test_lossy import SIZES
from tests.support.adapter_files import CONFIG_FILE
from tests.support.base_weights import RandomBase
from tests.support.family_cases import ON_THE_DEQUANTISED
from tests.support.peft_lowering import Written, base_of, require_equal, tiny_llama, write

NEVER_WRITTEN = {"runtime_config"}
# Of which PEFT takes one, the other being 0.
INSTEAD = {"r": "oft_block_size", "boft_block_num": "boft_block_size"}
# The first of a peft_type: the others have its keys. Families that adapt no linears have tests of
# their own, see test_prompt.py and test_places.py.
ELSEWHERE = {"PROMPT_TUNING", "P_TUNING", "CPT", "PREFIX_TUNING", "CARTRIDGE", "TRAINABLE_TOKENS"}
OF_LINEARS = {
    family.peft_type: family
    for family in FAMILIES
    if family.keys is not None
    if family.peft_type in PEFT_TYPE_TO_CONFIG_MAPPING.keys() - ELSEWHERE
    if family.name in ON_THE_DEQUANTISED or family.status == "lossy"
}


def harmless_keys(family: Family) -> list[str]:
    assert family.keys is not None
    config = PEFT_TYPE_TO_CONFIG_MAPPING[family.peft_type]
    of_peft = {field.name for field in dataclasses.fields(config)}
    return sorted((family.keys.harmless & of_peft) - COMMON - NEVER_WRITTEN)


CASES = [(family, key) for family in OF_LINEARS.values() for key in harmless_keys(family)]


def config_of(family: Family) -> PeftConfig:
    for config in LOSSY_CASES.values() if family.status == "lossy" else ():
        if config.peft_type == family.peft_type:
            return copy.deepcopy(config)
    return ON_THE_DEQUANTISED[family.name](4)


def others(value: object) -> tuple[object, ...]:
    """What a key may hold instead of `value`."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, float):
        return (0.25, 2.0)
    if isinstance(value, int):
        return (2, 8, 24)
    return (3, {"q_proj": 2}, True, {}, "x")


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return base_of(tiny_llama())


@pytest.fixture(scope="module")
def store(base: RandomBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], tuple[Path, Written]]:
    """Each family's adapter without another value anywhere, and where its files are."""

    @cache
    def one(family_name: str) -> tuple[Path, Written]:
        directory = tmp_path_factory.mktemp(family_name)
        (family,) = (f for f in OF_LINEARS.values() if f.name == family_name)
        return directory, write(config_of(family), directory, size=SIZES.get(family_name, 0.2))

    return lambda family: one(family.name)


@pytest.mark.parametrize(("family", "key"), CASES, ids=[f"{f.name}-{key}" for f, key in CASES])
def test_another_value_is_served_as_peft_computes_it(
    store: AdapterStore,
    base: RandomBase,
    tmp_path: Path,
    written: Callable[[Family], tuple[Path, Written]],
    family: Family,
    key: str,
) -> None:
    values = others(getattr(config_of(family), key))
    trained = first(lambda value: trained_with(family, key, value, tmp_path / repr(value)), values)
    bent = first(lambda value: read_with(*written(family), key, value), values)
    found = [each for each in (trained, bent) if each is not None]
    assert found, "PEFT takes none of these values"
    for each in found:
        lossy_rank = 64 if family.status == "lossy" else None
        adapter = each.put(store, family.name, lossy_rank=lossy_rank)
        require_equal(store, base, each.oracle, adapter)


def first(make: Callable[[object], Written], values: Iterable[object]) -> Written | None:
    """Of the first value that PEFT does not refuse, in whatever way it does."""
    for value in values:
        with suppress(Exception):
            return make(value)
    return None


def trained_with(family: Family, key: str, value: object, directory: Path) -> Written:
    config = config_of(family)
    setattr(config, key, value)
    if hasattr(config, INSTEAD.get(key, "")):
        setattr(config, INSTEAD[key], 0)
    return write(config, directory, size=SIZES.get(family.name, 0.2))


def read_with(directory: Path, written: Written, key: str, value: object) -> Written:
    config = written.config | {key: value}
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    oracle = PeftModel.from_pretrained(tiny_llama(), str(directory)).eval()
    return replace(written, config=config, oracle=oracle)
