"""Every family that PEFT knows is served, converted or refused by name, and every key is known."""

import dataclasses

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.families import FAMILIES, Family
from motet_adapters.families.lokr import divided
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lokr.layer import factorization

from tests.adapters_store.families.test_lossy import CASES as LOSSY_CASES
from tests.support.adapter_files import PREFIX, AdapterFiles, put_bytes
from tests.support.base_weights import RandomBase

NOT_SERVED = [family for family in FAMILIES if family.status != "served"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("store")
    base = RandomBase.llama()
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 20)
    yield store
    store.close()


def test_every_family_of_peft_has_a_row() -> None:
    assert {peft_type.value for peft_type in PeftType} <= {f.peft_type for f in FAMILIES}


@pytest.mark.parametrize("family", NOT_SERVED, ids=lambda family: family.name)
@pytest.mark.parametrize("lossy_rank", [None, 4])
def test_refused_by_name_with_the_fix(
    store: AdapterStore, family: Family, lossy_rank: int | None
) -> None:
    """What is only served converted is refused where that is not asked for."""
    if family.convert is not None and lossy_rank is not None:
        pytest.skip("converted, see test_lossy.py")
    config: dict[str, object] = {"peft_type": family.peft_type}
    if family.peft_type == "LORA":
        config |= {family.param: family.name}  # an initialisation
    files = AdapterFiles(config, {"x.weight": torch.ones(2)})
    with pytest.raises(AdapterRefused) as refused:
        put_bytes(store, files.config_bytes, files.weights_bytes, lossy_rank=lossy_rank)
    assert family.title in refused.value.message
    assert family.fix in refused.value.message
    assert refused.value.param == family.param


def test_every_family_that_is_converted_has_its_oracle_case() -> None:
    converted = {family.peft_type for family in FAMILIES if family.convert is not None}
    assert converted == {str(config.peft_type.value) for config in LOSSY_CASES.values()}


@pytest.mark.parametrize("config", [{"peft_type": "NEWLORA"}, {"r": 4}, {"peft_type": "LORA"}])
def test_tensors_of_no_family_are_listed(store: AdapterStore, config: dict[str, object]) -> None:
    module = f"{PREFIX}model.layers.0.self_attn.q_proj"
    invented = {f"{module}.{name}": torch.ones(2) for name in ("zeta_P.weight", "zeta_gate")}
    files = AdapterFiles(config | {"target_modules": ["q_proj"]}, invented)
    with pytest.raises(AdapterRefused) as refused:
        put_bytes(store, files.config_bytes, files.weights_bytes)
    for name in invented:
        assert name in refused.value.message


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
