"""`motet profile` on random tiny bases."""

import json

import pytest
from motet.cli.profile_report import LABELS

from tests.support.tiny_models import make_checkpoint

SMALL = ("--threads", 1, "--kv-cache-bytes", "4MiB", "--rounds", 1)
LOAD = ("--requests", 3, "--adapters", 2, "--rank", 4, "--prompt-len", 20, "--tokens", 4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def profile(run, checkpoint, data_dir):
    place = ("--base", checkpoint, "--data-dir", data_dir)
    return lambda *args: run("profile", *place, *SMALL, *args)


def test_json_has_every_part_of_each_kind_of_step(profile):
    result = profile(*LOAD, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    load = {"num_requests": 3, "num_adapters": 2, "rank": 4, "prompt_len": 20, "num_tokens": 4}
    assert shown["load"] == load | {"temperature": 0.0}
    assert shown["threads"] == 1
    assert shown["generated_tokens_per_s"] > 0
    prompt, decode = shown["prompt_steps"], shown["decode_steps"]
    assert (prompt["steps"], prompt["prompt_tokens"], prompt["generated_tokens"]) == (1, 60, 3)
    assert (decode["steps"], decode["prompt_tokens"], decode["generated_tokens"]) == (3, 0, 9)
    for kind in (prompt, decode):
        assert list(kind["parts"]) == list(LABELS)
        assert sum(part["ms"] for part in kind["parts"].values()) == pytest.approx(
            kind["ms_per_step"], abs=0.001
        )
        assert sum(part["percent"] for part in kind["parts"].values()) == pytest.approx(
            100, abs=0.1
        )
        # where layers run module by module, small adapters may cost less than two runs differ by
        certain = set(LABELS) - (set() if shown["one_call_layers"] else {"adapters"})
        assert all(kind["parts"][part]["ms"] > 0 for part in certain)


def test_the_table_names_the_load_and_every_part(profile):
    result = profile(*LOAD, "--temperature", 0.7)
    assert result.exit_code == 0, result.output
    assert "3 requests over 2 adapters of rank 4, prompts of 20 tokens" in result.stdout
    assert "4 generated, temperature 0.7" in result.stdout
    for label in (*LABELS.values(), "prompt steps", "decode steps", "whole step"):
        assert label in result.stdout
    assert "Decode steps hold none: 3 steps, 0.0 prompt and 3.0 generated" in result.stdout
    assert "than in the same steps on the base alone" in result.stdout


def test_the_base_alone_has_no_adapters(profile):
    shown = json.loads(profile("--requests", 1, "--adapters", 0, "--tokens", 2, "--json").stdout)
    for kind in ("prompt_steps", "decode_steps"):
        assert shown[kind]["parts"]["adapters"] == {"ms": 0, "percent": 0}
        assert shown[kind]["parts"]["linears"]["ms"] > 0


def test_layers_that_run_module_by_module_are_told_from_the_others(run, tmp_path):
    base = make_checkpoint(tmp_path / "gemma2", "gemma2")
    place = ("--base", base, "--data-dir", tmp_path / "data")
    result = run("profile", *place, *SMALL, *LOAD)
    assert result.exit_code == 0, result.output
    assert "0 of 2 layers run in one call" in result.stdout
    assert "are transformers' modules and count as Python" in result.stdout
    shown = json.loads(run("profile", *place, *SMALL, *LOAD, "--json").stdout)
    parts = shown["decode_steps"]["parts"]
    assert all(parts[part]["ms"] > 0 for part in ("attention", "linears", "lm_head", "sampling"))


def test_nothing_but_the_base_is_left_in_the_data_directory(profile, data_dir):
    assert profile(*LOAD).exit_code == 0
    assert [path.name for path in data_dir.iterdir()] == ["bases"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--requests", 2, "--adapters", 3), "2 requests cannot use 3 adapters"),
        (("--prompt-len", 600), "shorten the prompt or lower max_tokens"),
        (("--max-adapter-slots", 1), "raise --adapter-device-bytes and --max-adapter-slots"),
        (("--rank", 8, "--max-adapter-rank", 4), "use a whole number from 1 to 4"),
    ],
)
def test_a_load_that_cannot_be_run_is_a_sentence(profile, flags, sentence):
    result = profile(*LOAD, *flags)
    assert result.exit_code == 2
    assert sentence in result.stderr.splitlines()[-1]
