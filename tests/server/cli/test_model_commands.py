"""The commands that open a base model, on a random tiny one."""

import json
import socket

import peft
import pytest
import torch
from motet.engine.base import open_base
from motet.engine.runtime import store_directory
from motet_adapters import AdapterStore, Limits

from tests.support.adapter_files import random_adapter
from tests.support.dense_model import dense_model
from tests.support.tiny_models import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def data_dir(checkpoint, tmp_path_factory):
    """With the quantised base already in it."""
    directory = tmp_path_factory.mktemp("data")
    open_base(str(checkpoint), cache_dir=directory)
    return directory


@pytest.fixture
def adapter_dir(checkpoint, data_dir, tmp_path):
    adapter = random_adapter(open_base(str(checkpoint), cache_dir=data_dir), dora=True)
    directory = tmp_path / "red"
    directory.mkdir()
    (directory / "adapter_config.json").write_bytes(adapter.config_bytes)
    (directory / "adapter_model.safetensors").write_bytes(adapter.weights_bytes)
    return directory


def test_quantize_writes_a_base_that_is_found_again(run, checkpoint, tmp_path):
    result = run("quantize", checkpoint, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "14 linears in NF4" in result.stdout
    assert f"motet serve --data-dir {tmp_path / 'out'} --base {checkpoint}" in result.stdout
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "bases").rglob("*")}
    run("quantize", checkpoint, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize("command", [("quantize",), ("adapters", "check")])
def test_a_base_that_is_none_is_a_sentence(run, command, adapter_dir, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    wrong = tmp_path / "notes.txt"
    args = (wrong, tmp_path / "out") if command == ("quantize",) else (adapter_dir, "--base", wrong)
    result = run(*command, *args)
    assert result.exit_code == 2
    assert "Give a checkpoint directory, a .gguf file or a hub id." in result.stderr


def test_check_shows_what_matched_and_leaves_nothing(run, checkpoint, data_dir, adapter_dir):
    before = sorted(data_dir.rglob("*"))
    result = run("adapters", "check", adapter_dir, "--base", checkpoint, "--data-dir", data_dir)
    assert result.exit_code == 0, result.output
    assert "dora" in result.stdout
    assert "q_proj x 2, v_proj x 2" in result.stdout
    assert "Adapter red fits" in result.stderr
    assert sorted(data_dir.rglob("*")) == before


def test_check_tells_what_the_store_warns_of(run, checkpoint, data_dir, adapter_dir):
    config = json.loads((adapter_dir / "adapter_config.json").read_bytes())
    config["target_modules"] = ".*_proj"
    (adapter_dir / "adapter_config.json").write_text(json.dumps(config))
    result = run("adapters", "check", adapter_dir, "--base", checkpoint, "--data-dir", data_dir)
    assert result.exit_code == 0, result.output
    assert "is an expression, which is never run" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("flags", "damage", "sentence"),
    [
        (("--max-adapter-rank", 2), None, "r is 4; use a whole number from 1 to 2."),
        (("--max-upload-bytes", 100), None, "The upload is over 100 bytes"),
        ((), b"PK\x03\x04", "adapter_model.safetensors"),
    ],
)
def test_check_refuses_with_the_store_s_own_sentence(
    run, checkpoint, data_dir, adapter_dir, flags, damage, sentence
):
    if damage:
        (adapter_dir / "adapter_model.safetensors").write_bytes(damage)
    place = ("--base", checkpoint, "--data-dir", data_dir)
    result = run("adapters", "check", adapter_dir, *place, *flags)
    assert result.exit_code == 2
    assert sentence in result.stderr.splitlines()[-1]


def test_serve_refuses_an_open_address_without_tenants(run):
    result = run("serve", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "motet tenants create NAME" in result.stderr


def test_serve_refuses_the_demo_on_another_base(run, checkpoint):
    result = run("serve", "--demo", "--base", checkpoint)
    assert result.exit_code == 2
    assert "leave out --base, or leave out --demo" in result.stderr


def test_serve_refuses_an_admin_key_that_is_short(run):
    result = run("serve", "--admin-key", "short")
    assert result.exit_code == 2
    assert "--admin-key" in result.stderr


def test_serve_on_a_port_in_use_does_not_load_the_model_first(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        no_base = ("--base", tmp_path / "no-base")  # would be refused too, later
        result = run("serve", *no_base, "--data-dir", tmp_path, "--port", port)
    assert result.exit_code == 2
    assert f"Cannot listen on 127.0.0.1 port {port}: Address already in use." in result.stderr


def test_serve_on_a_store_in_use_is_a_sentence(run, checkpoint, data_dir):
    base = open_base(str(checkpoint), cache_dir=data_dir)
    root = store_directory(data_dir)
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1)
    try:
        flags = ("--kv-cache-bytes", "1MiB", "--threads", 1, "--port", 0)
        result = run("serve", "--base", checkpoint, "--data-dir", data_dir, *flags)
    finally:
        store.close()
    assert result.exit_code == 2
    assert "Another process has this adapter store open." in result.stderr


def test_check_cuts_to_a_rank_when_asked(run, checkpoint, data_dir, tmp_path):
    base = open_base(str(checkpoint), cache_dir=data_dir)
    model = dense_model(base)
    config = peft.OFTConfig(oft_block_size=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trained = peft.get_peft_model(model, config)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape) * 0.1
    trained.save_pretrained(tmp_path / "oft")
    args = ("adapters", "check", tmp_path / "oft", "--base", checkpoint, "--data-dir", data_dir)
    refused = run(*args)
    assert refused.exit_code != 0
    assert "lossy" in refused.stderr
    cut = run(*args, "--lossy-rank", "16")
    assert cut.exit_code == 0, cut.output
    assert "lost" in cut.stdout


def test_check_knows_which_linears_share_an_input(run, checkpoint, data_dir, tmp_path):
    model = dense_model(open_base(str(checkpoint), cache_dir=data_dir))
    config = peft.IA3Config(
        target_modules=["up_proj"], feedforward_modules=["up_proj"], task_type="CAUSAL_LM"
    )
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "ia3")
    args = ("adapters", "check", tmp_path / "ia3", "--base", checkpoint, "--data-dir", data_dir)
    assert "feedforward_modules" in run(*args).stderr
