"""Every family that PEFT knows is served, converted or refused by name, and every key is known."""

import dataclasses

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.families import FAMILIES, Family
from motet_adapters.families.lokr import divided
from motet_adapters.families.refused import REFUSED
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lokr.layer import factorization

from tests.support.adapter_files import AdapterFiles, put_bytes
from tests.support.base_weights import RandomBase


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("store")
    base = RandomBase.llama()
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 20)
    yield store
    store.close()


def test_every_family_of_peft_has_a_row() -> None:
    assert {peft_type.value for peft_type in PeftType} <= {f.peft_type for f in FAMILIES}


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
@pytest.mark.parametrize("lossy_rank", [None, 4])
def test_refused_by_name_with_the_fix(
    store: AdapterStore, family: Family, lossy_rank: int | None
) -> None:
    files = AdapterFiles({"peft_type": family.peft_type}, {"x.weight": torch.ones(2)})
    with pytest.raises(AdapterRefused) as refused:
        put_bytes(store, files.config_bytes, files.weights_bytes, lossy_rank=lossy_rank)
    assert family.title in refused.value.message
    assert family.fix in refused.value.message
    assert refused.value.param == "peft_type"


@pytest.mark.parametrize(
    "family",
    [f for f in FAMILIES if f.keys is not None and f.peft_type in PeftType.__members__],
    ids=lambda family: family.name,
)
def test_every_key_that_peft_writes_is_known(family: Family) -> None:
    assert family.keys is not None
    known = family.keys.served | family.keys.harmless | family.keys.refused.keys()
    assert not family.keys.served & family.keys.harmless
    assert not (family.keys.served | family.keys.harmless) & family.keys.refused.keys()
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(family.peft_type)]
    # runtime_config is never written.
    written = {field.name for field in dataclasses.fields(config)} - {"runtime_config"}
    assert written <= known | {"runtime_config"}, written - known


@pytest.mark.parametrize("factor", [-1, 1, 2, 4, 7, 8, 16])
def test_lokr_divides_dimensions_as_peft_does(factor: int) -> None:
    for dimension in (1, 2, 17, 64, 96, 127, 128, 360, 576, 1000, 1536, 2048, 4096, 11008, 14336):
        assert divided(dimension, factor) == tuple(factorization(dimension, factor)), dimension
