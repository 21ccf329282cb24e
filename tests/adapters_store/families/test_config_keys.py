"""Every key that PEFT's own config class has is in one list of its family, and in no other."""

import dataclasses

import pytest
from motet_adapters.families import FAMILIES
from motet_adapters.families.family import Family
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

OF_PEFT = [
    family
    for family in FAMILIES
    if family.keys is not None and family.peft_type in PEFT_TYPE_TO_CONFIG_MAPPING
]


@pytest.mark.parametrize("family", OF_PEFT, ids=[family.name for family in OF_PEFT])
def test_every_key_of_peft_is_known(family: Family) -> None:
    keys = family.keys
    assert keys is not None
    ours = [*keys.served, *keys.harmless, *keys.refused]
    assert len(ours) == len(set(ours)), sorted(key for key in ours if ours.count(key) > 1)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[family.peft_type]
    unknown = {field.name for field in dataclasses.fields(config)} - set(ours)
    assert not unknown


def test_no_two_families_have_one_name() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names))
