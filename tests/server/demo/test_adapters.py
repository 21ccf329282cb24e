"""The committed demo adapters: small, bf16, of the kinds promised, and visibly different."""

import json
from collections.abc import Callable, Iterator

import pytest
import torch
from motet.demo import sql
from motet.demo.answers import is_french, is_json_answer
from motet.demo.catalog import DEMO_TENANTS, DemoTenant
from motet.demo.phrases import held_out_questions
from motet.demo.scores import replies
from motet.demo.training import training_model
from motet_adapters import AdapterStore, Limits
from peft import PeftModel
from safetensors import safe_open

from tests.support.demo_model import CACHE_DIR, demo_base

MAX_BYTES = 1_000_000
QUESTIONS = held_out_questions()[::8]  # every eighth, whatever it is

Ask = Callable[[str, list[str]], list[str]]


@pytest.fixture(params=DEMO_TENANTS, ids=lambda demo: demo.adapter)
def demo(request: pytest.FixtureRequest) -> DemoTenant:
    found: DemoTenant = request.param
    return found


@pytest.fixture(scope="module")
def ask() -> Ask:
    """Greedy replies of PEFT with the named demo adapter on the dequantised base."""
    model, tokenizer = training_model(data_dir=CACHE_DIR)
    directories = {each.adapter: each.directory for each in DEMO_TENANTS}
    first, *others = directories
    adapted = PeftModel.from_pretrained(model, directories[first], adapter_name=first)
    for name in others:
        adapted.load_adapter(directories[name], adapter_name=name)
    adapted.eval()

    def ask(adapter: str, questions: list[str]) -> list[str]:
        adapted.set_adapter(adapter)
        return replies(adapted, tokenizer, questions)

    return ask


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    opened = AdapterStore(
        root, demo_base(), dtype=torch.float32, limits=Limits(), host_bytes=64 << 20
    )
    yield opened
    opened.close()


def test_two_small_files(demo: DemoTenant) -> None:
    files = sorted(demo.directory.iterdir())
    assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert sum(file.stat().st_size for file in files) < MAX_BYTES


def test_weights_are_bf16(demo: DemoTenant) -> None:
    with safe_open(demo.directory / "adapter_model.safetensors", framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_config_names_the_base_and_no_path(demo: DemoTenant) -> None:
    config = json.loads((demo.directory / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == demo_base().name
    assert not [value for value in config.values() if isinstance(value, str) and "/" in value]


def test_store_takes_it_as_its_kind(demo: DemoTenant, store: AdapterStore) -> None:
    with store.stage() as staging:
        for file in demo.directory.iterdir():
            staging.write(file.name, file.read_bytes())
        assert store.check(demo.tenant, demo.adapter, staging).kind == demo.kind


@pytest.mark.slow
def test_json_adapter_answers_in_json_only(ask: Ask) -> None:
    for reply in ask("json-only", list(QUESTIONS)):
        assert is_json_answer(reply), reply


@pytest.mark.slow
def test_french_adapter_answers_in_french(ask: Ask) -> None:
    for reply in ask("french", list(QUESTIONS)):
        assert is_french(reply), reply


@pytest.mark.slow
def test_sql_adapter_answers_with_one_statement(ask: Ask) -> None:
    asked = sql.held_out_questions()[::6]
    for reply in ask("sql", [one.prompt for one in asked]):
        assert sql.is_select(reply), reply


@pytest.mark.slow
def test_sample_prompts_show_what_each_adapter_does(ask: Ask) -> None:
    judges: dict[str, Callable[[str], bool]] = {
        "json-only": is_json_answer,
        "french": is_french,
        "sql": sql.is_select,
    }
    for demo in DEMO_TENANTS:
        (reply,) = ask(demo.adapter, [demo.prompt])
        assert judges[demo.adapter](reply), reply
