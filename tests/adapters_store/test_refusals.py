"""Bad uploads: each refused with a message that names the fix, and nothing changed on disk."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import (
    AdapterError,
    AdapterRefused,
    AdapterStore,
    AdapterTooLarge,
    InvalidName,
    Limits,
)

from tests.support.adapter_files import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    AdapterFiles,
    put_bytes,
    random_adapter,
)
from tests.support.base_weights import RandomBase
from tests.support.disk_state import disk_state

BASE = RandomBase.llama()
Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"
Bend = Callable[[AdapterFiles], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(root: Path) -> Iterator[AdapterStore]:
    store = AdapterStore(
        root,
        BASE,
        dtype=torch.float32,
        limits=Limits(max_upload_bytes=200_000, max_config_bytes=4000, max_rank=16),
        host_bytes=1 << 20,
        max_image_bytes=10_000,
    )
    random_adapter(BASE).put(store, "acme", "kept")
    yield store
    store.close()


def refused(
    store: AdapterStore, root: Path, config: bytes, weights: bytes
) -> AdapterRefused | AdapterTooLarge:
    before = disk_state(root)
    names = [adapter.name for adapter in store.list("acme")]
    with pytest.raises(AdapterError) as caught:
        put_bytes(store, config, weights, "acme", "kept")
    assert disk_state(root) == before
    assert [adapter.name for adapter in store.list("acme")] == names
    error = caught.value
    assert isinstance(error, (AdapterRefused, AdapterTooLarge))
    assert str(root) not in error.message
    assert error.message.isascii()
    assert len(error.message) < 1500
    return error


def drop(part: str) -> Bend:
    def bend(files: AdapterFiles) -> None:
        del files.tensors[f"{Q0}{part}"]

    return bend


def add(name: str, *shape: int) -> Bend:
    def bend(files: AdapterFiles) -> None:
        files.tensors[name] = torch.ones(shape)

    return bend


def rename(part: str, new: str) -> Bend:
    def bend(files: AdapterFiles) -> None:
        files.tensors[f"{Q0}{new}"] = files.tensors.pop(f"{Q0}{part}")

    return bend


def fill(part: str, value: float) -> Bend:
    def bend(files: AdapterFiles) -> None:
        files.tensors[f"{Q0}{part}"].view(-1)[3] = value

    return bend


def configure(**values: object) -> Bend:
    def bend(files: AdapterFiles) -> None:
        files.config.update(values)

    return bend


LORA_CASES: list[tuple[str, Bend, str]] = [
    ("missing B", drop(".lora_B.weight"), "are missing"),
    ("missing A", drop(".lora_A.weight"), "are missing"),
    ("wrong A", add(f"{Q0}.lora_A.weight", 4, 31), r"shape \[4, 31\].* needs \[4, 32\]"),
    ("wrong B", add(f"{Q0}.lora_B.weight", 31, 4), r"shape \[31, 4\].* needs \[32, 4\]"),
    ("transposed", add(f"{Q0}.lora_A.weight", 32, 4), "needs"),
    ("flat", add(f"{Q0}.lora_A.weight", 128), "needs"),
    ("other rank", add(f"{Q0}.lora_A.weight", 5, 32), "Correct r or rank_pattern"),
    ("rank in config", configure(r=5), "Correct r or rank_pattern"),
    ("rank pattern", configure(rank_pattern={"v_proj": 2}), "Correct r or rank_pattern"),
    ("rank over limit", configure(r=17), "from 1 to 16"),
    ("extra tensor", add(f"{PREFIX}model.layers.0.mlp.up_proj.lora_A.weight", 4, 32), "target"),
    ("no such layer", add(f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight", 4, 32), "base"),
    ("no prefix", add("model.layers.0.self_attn.q_proj.lora_A.weight", 4, 32), "begin with"),
    ("path", add("../../etc/passwd", 4, 32), "begin with"),
    ("embedding", add(f"{PREFIX}model.embed_tokens.lora_embedding_A", 4, 9), "embedding"),
    ("base copy", add(f"{PREFIX}lm_head.base_layer.weight", 9, 32), "vocabulary was resized"),
    ("other base", add(f"{PREFIX}lm_head.base_layer.weight", 24, 32), "was trained"),
    ("whole module", add(f"{PREFIX}lm_head.weight", 9, 32), "modules_to_save"),
    ("bias", add(f"{Q0}.lora_B.bias", 32), "set lora_bias"),
    ("kasa", add(f"{Q0}.lora_diag", 4), "KaSA"),
    (
        "tokens",
        add(f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 32),
        "trainable_token_indices",
    ),
    ("inner name", rename(".lora_A.weight", ".lora_A.default.weight"), "save_pretrained"),
    ("magnitude", add(f"{Q0}.lora_magnitude_vector", 32), "use_dora"),
    ("no magnitudes", configure(use_dora=True), "use_dora"),
    ("NaN", fill(".lora_A.weight", float("nan")), "NaN"),
    ("infinite", fill(".lora_B.weight", float("-inf")), "NaN or infinite"),
    ("overflow", fill(".lora_B.weight", 3e38), "leave the range"),
    ("no tensors", lambda files: files.tensors.clear(), "are missing"),
    ("unmatched target", configure(target_modules=["q_proj", "v_proj", "c_attn"]), "'c_attn'"),
    ("lm_head", configure(target_modules=["q_proj", "v_proj", "lm_head"]), "are missing"),
    ("saved head", configure(modules_to_save=["lm_head"]), "are missing"),
    ("saved linear", configure(modules_to_save=["o_proj"]), "by target_modules"),
    ("tokens", configure(trainable_token_indices=[3]), "are missing"),
    ("token past the end", configure(trainable_token_indices=[24]), "from 0 to 23"),
    ("token twice", configure(trainable_token_indices=[3, 3]), "twice"),
    ("tokens elsewhere", configure(trainable_token_indices={"o_proj": [3]}), "'o_proj'"),
    ("two variants", configure(use_qalora=True, use_dora=True), "does not combine"),
    ("variant on another base", configure(use_qalora=True, init_lora_weights="pissa"), "combine"),
    ("unknown init", configure(init_lora_weights="surprise"), "is not known"),
    ("PiSSA by chance", configure(init_lora_weights="pissa_niter_16"), "conversion"),
    ("CorDA", configure(init_lora_weights="corda"), "conversion"),
    ("LoRA-GA", configure(init_lora_weights="lora_ga"), "conversion"),
    ("LoftQ untold", configure(init_lora_weights="loftq"), "replace_lora_weights_loftq"),
    (
        "LoftQ of many iterations",
        configure(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 5}),
        "replace_lora_weights_loftq",
    ),
    *(
        (f"{init} without the original", configure(init_lora_weights=init), "conversion")
        for init in ("pissa", "olora", "milora")
    ),
    (
        "PiSSA on a tied head",
        configure(target_modules=["lm_head"], init_lora_weights="pissa"),
        "the embedding's as well",
    ),
    (
        "KaSA on an embedding",
        configure(target_modules=["embed_tokens"], kasa_config={}),
        "embed_tokens is targeted",
    ),
    (
        "PiSSA of parameters",
        configure(target_parameters=["experts.up_proj"], init_lora_weights="pissa"),
        "parameters are targeted",
    ),
    ("odd groups", configure(use_qalora=True, qalora_group_size=5), "does not divide"),
    ("blocks of nothing", configure(use_bdlora=True), "not an object"),
    ("blocks of others", configure(use_bdlora={"target_modules_bd_a": ["o_proj"]}), "no factor of"),
    ("unknown blocks", configure(use_bdlora={"blocks": 2}), "does not know"),
    ("unknown KaSA", configure(kasa_config={"alpha": 2}), "kasa_config"),
    ("invocation of nothing", configure(alora_invocation_tokens=[99]), "from 0 to 23"),
    (
        "invocation of no task",
        configure(alora_invocation_tokens=[1], task_type=None),
        "PEFT leaves an adapter with invocation tokens out",
    ),
    (
        "invocation and biases",
        configure(alora_invocation_tokens=[1], bias="all"),
        "leaves to the base",
    ),
    ("untrained target", configure(target_modules=["q_proj", "v_proj", "o_proj"]), "missing"),
    ("too few targets", configure(target_modules=["q_proj"]), "correct target_modules"),
    ("all-linear", configure(target_modules="all-linear"), "are missing"),
    ("excluded", configure(exclude_modules=["v_proj"]), "correct target_modules"),
    ("nothing left", configure(exclude_modules=["q_proj", "v_proj"]), "No module"),
    ("other layers", configure(layers_to_transform=[5]), "No module"),
    ("bomb", configure(rank_pattern={"(([a-z_0-9.])+)+!": 4}), "never run"),
]


@pytest.mark.parametrize(
    ("bend", "fix"), [case[1:] for case in LORA_CASES], ids=[case[0] for case in LORA_CASES]
)
def test_bent_lora(store: AdapterStore, root: Path, bend: Bend, fix: str) -> None:
    files = random_adapter(BASE)
    bend(files)
    error = refused(store, root, files.config_bytes, files.weights_bytes)
    assert pytest.raises(AdapterError, match=fix).matches(error), error.message


DORA_CASES: list[tuple[Bend, str]] = [
    (drop(".lora_magnitude_vector"), "are missing"),
    (add(f"{Q0}.lora_magnitude_vector.weight", 32), "stored twice"),
    (add(f"{Q0}.lora_magnitude_vector", 31), "needs"),
    (add(f"{Q0}.lora_magnitude_vector", 1, 32), "needs"),
    (configure(use_dora=False), "use_dora"),
    (fill(".lora_magnitude_vector", float("nan")), "NaN"),
]


@pytest.mark.parametrize(("bend", "fix"), DORA_CASES)
def test_bent_dora(store: AdapterStore, root: Path, bend: Bend, fix: str) -> None:
    files = random_adapter(BASE, dora=True)
    bend(files)
    error = refused(store, root, files.config_bytes, files.weights_bytes)
    assert pytest.raises(AdapterError, match=fix).matches(error), error.message


def test_a_row_of_zero_norm_is_refused(store: AdapterStore, root: Path) -> None:
    files = random_adapter(BASE, dora=True, alpha=4)
    module = "model.layers.0.self_attn.q_proj"
    # W + B A is the zero row exactly when A holds -w and B picks it.
    files.tensors[f"{Q0}.lora_A.weight"].zero_()[0] = -BASE.weight(module)[0]
    files.tensors[f"{Q0}.lora_B.weight"].zero_()[0, 0] = 1.0
    error = refused(store, root, files.config_bytes, files.weights_bytes)
    assert "range" in error.message


def test_values_beyond_the_image_dtype_are_refused(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, BASE, dtype=torch.float16, limits=Limits(), host_bytes=1 << 20)
    files = random_adapter(BASE)
    fill(".lora_A.weight", 70_000.0)(files)
    with pytest.raises(AdapterRefused, match="float16"):
        files.put(store)
    store.close()


def test_an_adapter_larger_than_the_device_budget(store: AdapterStore, root: Path) -> None:
    files = random_adapter(BASE, rank=16)
    error = refused(store, root, files.config_bytes, files.weights_bytes)
    assert isinstance(error, AdapterTooLarge)
    assert "smaller rank" in error.message


@pytest.mark.parametrize(
    "weights",
    [
        pickle.dumps({"a": 1}),
        b"PK\x03\x04" + bytes(100),
        random_adapter(BASE).weights_bytes[:-1],
        random_adapter(BASE).weights_bytes[:100],
        random_adapter(BASE).weights_bytes + b"\0",
        b"",
        os.urandom(5000),
    ],
)
def test_files_that_are_no_safetensors(store: AdapterStore, root: Path, weights: bytes) -> None:
    error = refused(store, root, random_adapter(BASE).config_bytes, weights)
    assert error.param == WEIGHTS_FILE
    assert "save_pretrained" in error.message


def test_limits_are_enforced_while_writing(store: AdapterStore, root: Path) -> None:
    before = disk_state(root)
    with store.stage() as staging:
        for _ in range(200):
            staging.write(WEIGHTS_FILE, bytes(1000))
        with pytest.raises(AdapterTooLarge) as caught:
            staging.write(WEIGHTS_FILE, b"x")
        assert caught.value.param == WEIGHTS_FILE
        assert staging.num_bytes == 200_000
    with store.stage() as staging, pytest.raises(AdapterTooLarge):
        staging.write(CONFIG_FILE, bytes(4001))
    assert disk_state(root) == before


@pytest.mark.parametrize(
    ("filename", "fix"),
    [
        ("adapter_model.bin", "Pickled weights are never read"),
        ("adapter.zip", "Archives are never unpacked"),
        ("../adapter_config.json", "is not accepted"),
        ("/etc/passwd", "is not accepted"),
        ("adapter_config.json\0", "is not accepted"),
        ("README.md", "is not accepted"),
    ],
)
def test_other_file_names(store: AdapterStore, filename: str, fix: str) -> None:
    with store.stage() as staging, pytest.raises(AdapterRefused, match=fix) as caught:
        staging.write(filename, b"x")
    assert WEIGHTS_FILE in caught.value.message


def test_a_missing_file(store: AdapterStore, root: Path) -> None:
    before = disk_state(root)
    with store.stage() as staging:
        staging.write(CONFIG_FILE, random_adapter(BASE).config_bytes)
        with pytest.raises(AdapterRefused, match=f"{WEIGHTS_FILE} is missing"):
            store.put("acme", "one", staging)
    with store.stage() as staging:
        staging.write(WEIGHTS_FILE, random_adapter(BASE).weights_bytes)
        with pytest.raises(AdapterRefused, match=f"{CONFIG_FILE} is missing"):
            store.check("acme", "one", staging)
    assert disk_state(root) == before


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "a\n", "a b", "ä", "a" * 65, "../a"])
def test_bad_names(store: AdapterStore, root: Path, name: str) -> None:
    before = disk_state(root)
    files = random_adapter(BASE)
    for tenant, adapter, param in ((name, "one", "tenant"), ("acme", name, "name")):
        with pytest.raises(InvalidName) as caught:
            files.put(store, tenant, adapter)
        assert caught.value.param == param
    assert disk_state(root) == before


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 64, "a..b"])
def test_good_names(store: AdapterStore, name: str) -> None:
    random_adapter(BASE).put(store, "acme", name)
    assert store.get("acme", name).name == name
    store.delete("acme", name)


def test_a_dry_run_says_what_would_be_published(store: AdapterStore, root: Path) -> None:
    before = disk_state(root)
    files = random_adapter(BASE, targets=("o_proj",), rank=2, seed=9)
    with store.stage() as staging:
        staging.write(WEIGHTS_FILE, files.weights_bytes)
        staging.write(CONFIG_FILE, files.config_bytes)
        adapter = store.check("acme", "dry", staging)
        again = store.check("acme", "dry", staging)
    assert adapter.digest == again.digest
    assert (adapter.kind, adapter.ranks, adapter.matched) == ("lora", (2,), {"o_proj": 2})
    assert adapter.num_parameters == 2 * 2 * (32 + 32)
    assert adapter.source_bytes == len(files.config_bytes) + len(files.weights_bytes)
    assert disk_state(root) == before
    assert files.put(store, name="dry").digest == adapter.digest
    store.delete("acme", "dry")


def test_a_staging_is_used_once(store: AdapterStore) -> None:
    files = random_adapter(BASE)
    with store.stage() as staging:
        staging.write(CONFIG_FILE, files.config_bytes)
        staging.write(WEIGHTS_FILE, files.weights_bytes)
        store.put("acme", "once", staging)
        with pytest.raises(RuntimeError):
            store.put("acme", "twice", staging)
        with pytest.raises(RuntimeError):
            staging.write(CONFIG_FILE, b"")
    store.delete("acme", "once")


def test_metadata_is_ignored(store: AdapterStore) -> None:
    files = random_adapter(BASE)
    files.metadata = {"format": "tf", "x": "y" * 10_000}
    assert files.put(store, name="meta").kind == "lora"
    assert json.loads(files.config_bytes)["peft_type"] == "LORA"
    store.delete("acme", "meta")
