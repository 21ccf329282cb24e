"""Families that do not fold: refused by name, or cut to a rank, with what is lost in the reply."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.truncation import truncated
from peft import (
    BOFTConfig,
    C3AConfig,
    FourierFTConfig,
    HRAConfig,
    LoKrConfig,
    MissConfig,
    OFTConfig,
    OSFConfig,
    PeftConfig,
    RandLoraConfig,
    RoadConfig,
    ShiraConfig,
)
from peft.tuners.hira import HiraConfig

from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import (
    Written,
    adapted_modules,
    base_of,
    linear_output,
    require_equal,
    tiny_llama,
    write,
)

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERY = {"target_modules": ALL, "task_type": "CAUSAL_LM"}

CASES: dict[str, PeftConfig] = {
    "lokr": LoKrConfig(r=12, alpha=3, **EVERY),
    "miss-bat": MissConfig(r=16, init_weights="bat", **EVERY),
    "oft": OFTConfig(oft_block_size=16, **EVERY),
    "oft-2": OFTConfig(oft_block_size=8, num_cayley_neumann_terms=2, **EVERY),
    "oft-3": OFTConfig(oft_block_size=8, num_cayley_neumann_terms=3, **EVERY),
    "oft-7": OFTConfig(oft_block_size=8, num_cayley_neumann_terms=7, **EVERY),
    "oft-solved": OFTConfig(oft_block_size=8, use_cayley_neumann=False, **EVERY),
    "oft-shared": OFTConfig(oft_block_size=16, block_share=True, **EVERY),
    "boft": BOFTConfig(boft_block_size=8, **EVERY),
    "hira": HiraConfig(r=8, **EVERY),
    "hira-patterns": HiraConfig(r=8, rank_pattern={"q_proj": 4}, **EVERY),
    "randlora": RandLoraConfig(r=8, **EVERY),
    "fourierft": FourierFTConfig(n_frequency=200, n_frequency_pattern={"q_proj": 90}, **EVERY),
    "c3a": C3AConfig(block_size=16, **EVERY),
    "shira": ShiraConfig(r=8, **EVERY),
    "road-1": RoadConfig(variant="road_1", group_size=16, **EVERY),
    "road-2": RoadConfig(variant="road_2", group_size=8, **EVERY),
    "road-4": RoadConfig(variant="road_4", group_size=16, **EVERY),
    "osf": OSFConfig(effective_rank=12, **EVERY),
}
# Some start at no update at all and some at a large one.
SIZES = {"fourierft": 1.0, "randlora": 0.02, "c3a": 0.5, "osf": 0.05}


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return base_of(tiny_llama())


@pytest.fixture
def store(base: RandomBase, tmp_path: Path) -> Iterator[AdapterStore]:
    root = tmp_path / "store"
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


def written(name: str, directory: Path) -> Written:
    return write(CASES[name], directory, size=SIZES.get(name, 0.2))


@pytest.mark.parametrize("name", [name for name in CASES if name != "lokr"])
def test_at_full_rank_nothing_is_lost(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    """At the rank of the smaller side a cut loses nothing: the update is PEFT's own."""
    found = written(name, tmp_path)
    adapter = found.put(store, lossy_rank=64)
    require_equal(store, base, found.oracle, adapter)
    assert max(adapter.lossy_errors.values()) < 1e-5


@pytest.mark.parametrize("name", ["hira", "road-2", "lokr"])
def test_what_is_lost_is_told_and_kept(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    found = written(name, tmp_path)
    adapter = found.put(store, lossy_rank=6)
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    assert adapter.ranks == (6,)
    for module, oracle in adapted_modules(found.oracle):
        x = torch.eye(base.shape(module)[1])
        with torch.no_grad():
            update = (oracle(x) - oracle(0 * x) - x @ base.weight(module).t()).t()
        y = linear_output(base, module, views[module], x)
        y = y - linear_output(base, module, views[module], 0 * x)
        kept = (y - x @ base.weight(module).t()).t()
        lost = float((update - kept).norm() / update.norm())
        best = torch.linalg.svdvals(update)[6:].norm() / update.norm()
        assert adapter.lossy_errors[module] == pytest.approx(lost, abs=1e-4)
        assert lost == pytest.approx(float(best), abs=1e-4)
        assert lost > 0.05
    assert store.get("acme", "one").lossy_errors == adapter.lossy_errors


def test_the_option_is_a_part_of_the_adapter(base: RandomBase, tmp_path: Path) -> None:
    """It tells one adapter from another, and outlives restarts and images made again."""
    root = tmp_path / "store"
    found = written("hira", tmp_path)
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    narrow, wide = (found.put(store, f"rank{rank}", lossy_rank=rank) for rank in (4, 16))
    assert narrow.digest != wide.digest
    assert found.put(store, "again", lossy_rank=4).digest == narrow.digest
    kept = bytes(store.image(narrow.digest).buffer.numpy())
    store.close()
    for image in (root / "images").iterdir():
        image.unlink()
    again = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    assert again.get("acme", "rank4").lossy_errors == narrow.lossy_errors
    assert bytes(again.image(narrow.digest).buffer.numpy()) == kept
    again.close()


def test_a_dry_run_with_the_option_publishes_nothing_of_it(
    store: AdapterStore, tmp_path: Path
) -> None:
    found = written("hira", tmp_path)
    with store.stage() as staging:
        staging.write("adapter_config.json", found.config_bytes)
        staging.write("adapter_model.safetensors", found.weights)
        checked = store.check("acme", "one", staging, lossy_rank=4)
        assert checked.ranks == (4,)
        with pytest.raises(AdapterRefused, match="lossy=true"):
            store.check("acme", "one", staging)
        assert store.check("acme", "one", staging, lossy_rank=8).ranks == (8,)
        assert store.put("acme", "one", staging, lossy_rank=4).digest == checked.digest


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("lokr", "miss-bat")])
def test_without_the_option_it_is_refused_by_name(
    store: AdapterStore, tmp_path: Path, name: str
) -> None:
    with pytest.raises(AdapterRefused, match=r"is not served: .* lossy=true") as refused:
        written(name, tmp_path).put(store)
    assert refused.value.param == "peft_type"


def test_lokr_over_the_limit_is_refused_with_the_option_named(
    base: RandomBase, tmp_path: Path
) -> None:
    limits = Limits(max_rank=32)
    store = AdapterStore(tmp_path / "s", base, dtype=torch.float32, limits=limits, host_bytes=1)
    with pytest.raises(AdapterRefused, match="lossy=true"):
        written("lokr", tmp_path).put(store)
    store.close()


def test_miss_bat_is_refused_with_the_option_named(store: AdapterStore, tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused, match="lossy=true") as refused:
        written("miss-bat", tmp_path).put(store)
    assert refused.value.param == "init_weights"


def test_what_folds_exactly_is_refused_with_the_option(store: AdapterStore, tmp_path: Path) -> None:
    found = write(HRAConfig(r=2, **EVERY), tmp_path)
    with pytest.raises(AdapterRefused, match="folds exactly") as refused:
        found.put(store, lossy_rank=4)
    assert refused.value.param == "lossy"
    lokr = write(LoKrConfig(r=1, alpha=2, decompose_both=True, **EVERY), tmp_path / "lokr")
    with pytest.raises(AdapterRefused, match="folds exactly"):
        lokr.put(store, lossy_rank=200)
    miss = write(MissConfig(r=4, **EVERY), tmp_path / "miss")
    with pytest.raises(AdapterRefused, match="folds exactly"):
        miss.put(store, lossy_rank=4)


def test_large_updates_are_cut_nearly_as_well(tmp_path: Path) -> None:
    """Those for which a whole SVD would take minutes."""
    random = torch.Generator().manual_seed(0)
    values = torch.arange(1, 1101) ** -1.0
    u, v = (torch.linalg.qr(torch.randn(n, 1100, generator=random)).Q for n in (1100, 1200))
    update = (u * values) @ v.t()
    a, b, error = truncated(update, 16)
    best = float(values[16:].norm() / values.norm())
    assert a.shape == (16, 1200)
    assert b.shape == (1100, 16)
    assert error == pytest.approx(best, rel=1e-3)
    assert error == pytest.approx(float((update - b @ a).norm() / update.norm()), rel=1e-4)
    assert torch.equal(truncated(update, 16)[0], a)


def test_no_update_loses_nothing() -> None:
    a, b, error = truncated(torch.zeros(5, 7), 3)
    assert error == 0
    assert not (b @ a).any()
