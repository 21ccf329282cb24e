"""`motet serve` as a process, its tenants, their uploads, and the official client over a socket."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from motet.engine.base import open_base
from motet.engine.tokenizer import Tokenizer
from peft import LoraConfig

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import PeftAdapter, greedy, make_adapter
from tests.support.server_process import ServerProcess, server_process
from tests.support.tiny_models import make_checkpoint

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}
NUM_TOKENS = 24


@dataclass(frozen=True)
class House:
    """A running server, one tenant and key per kind of adapter, and PEFT's word on each."""

    server: ServerProcess
    checkpoint: Path
    data_dir: Path
    keys: dict[str, str]
    oracles: dict[str, PeftAdapter]

    def client(self, tenant: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.server.url}/v1", api_key=self.keys[tenant], max_retries=0
        )


def create_tenant(data_dir: Path, name: str) -> str:
    motet = Path(sys.executable).with_name("motet")
    command = [motet, "tenants", "create", name, "--data-dir", str(data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def upload(url: str, key: str, name: str, directory: Path) -> httpx.Response:
    files = {
        part: (part, (directory / part).read_bytes())
        for part in ("adapter_config.json", "adapter_model.safetensors")
    }
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.put(f"{url}/v1/adapters/{name}", files=files, headers=headers, timeout=60)


def flags(checkpoint: Path, data_dir: Path) -> tuple[str, ...]:
    return (
        *("--base", str(checkpoint), "--data-dir", str(data_dir), "--dtype", "float32"),
        *("--kv-cache-bytes", "64MiB", "--served-model-name", "tiny", "--threads", "1"),
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    tmp_path = tmp_path_factory.mktemp("house")
    data_dir = tmp_path / "data"
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    plain = dense_model(open_base(str(checkpoint), cache_dir=data_dir))
    keys = {tenant: create_tenant(data_dir, tenant) for tenant in ("base-only", *KINDS)}
    oracles = {}
    with server_process(*flags(checkpoint, data_dir)) as server:
        for seed, (kind, extra) in enumerate(KINDS.items()):
            config = LoraConfig(
                r=8, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM", **extra
            )
            oracles[kind] = make_adapter(plain, tmp_path / kind, seed, config)
            reply = upload(server.url, keys[kind], "mine", tmp_path / kind)
            assert reply.status_code == 201, reply.text
            assert reply.json()["kind"] == kind
        yield House(server, checkpoint, data_dir, keys, oracles)


async def complete(client: openai.AsyncOpenAI, model: str, prompt: str, *, stream: bool) -> str:
    settings: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    if not stream:
        reply = await client.completions.create(**settings)
        assert reply.usage is not None
        assert reply.usage.completion_tokens == NUM_TOKENS
        return reply.choices[0].text
    chunks = await client.completions.create(**settings, stream=True)
    return "".join([chunk.choices[0].text async for chunk in chunks])


async def crowd(house: House) -> list[tuple[str, str, str]]:
    """32 requests at once over the base and three adapters, every other one streamed."""
    tenants = [("base-only", "tiny"), *((kind, "mine") for kind in KINDS)]
    clients = {tenant: house.client(tenant) for tenant, _ in tenants}
    work, asked = [], []
    for index in range(32):
        tenant, model = tenants[index % 4]
        prompt = "one two three four five"[: 4 + index % 12]
        asked.append((tenant, prompt))
        work.append(complete(clients[tenant], model, prompt, stream=index % 8 < 4))
    answers = await asyncio.gather(*work)
    for client in clients.values():
        await client.close()
    return [(*question, answer) for question, answer in zip(asked, answers, strict=True)]


def metric(url: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found, f"no metric {name}"
    return float(found[1])


def test_32_requests_at_once_over_four_models_say_what_peft_says(house: House) -> None:
    url = house.server.url
    before = metric(url, "motet_mixed_steps_total")
    base = open_base(str(house.checkpoint), cache_dir=house.data_dir)
    tokenizer, plain = Tokenizer.load(base.directory), dense_model(base)
    expected: dict[tuple[str, str], str] = {}
    for tenant, prompt, answer in asyncio.run(crowd(house)):
        if (tenant, prompt) not in expected:
            ids = tokenizer.encode(prompt)
            oracle = house.oracles[tenant].oracle if tenant in house.oracles else plain
            decoder = tokenizer.decoder(ids)
            pieces = [decoder.push(token) for token in greedy(oracle, ids, NUM_TOKENS)]
            expected[tenant, prompt] = "".join(pieces) + decoder.flush()
        assert answer == expected[tenant, prompt]
    assert metric(url, "motet_mixed_steps_total") > before
    assert metric(url, "motet_isolation_violations_total") == 0


def test_chat_streamed_and_not_is_the_same_answer(house: House) -> None:
    with openai.OpenAI(base_url=f"{house.server.url}/v1", api_key=house.keys["dora"]) as client:
        settings: dict[str, Any] = {
            "model": "mine",
            "messages": [{"role": "user", "content": "one two"}],
            "max_tokens": 16,
            "temperature": 0,
        }
        whole = client.chat.completions.create(**settings)
        stream = client.chat.completions.create(
            **settings, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert told == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage


def test_a_tenant_sees_its_own_adapters_only(house: House) -> None:
    with openai.OpenAI(base_url=f"{house.server.url}/v1", api_key=house.keys["lora"]) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "mine"]
    with (
        openai.OpenAI(base_url=f"{house.server.url}/v1", api_key=house.keys["base-only"]) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.completions.create(model="mine", prompt="one", max_tokens=1)


def test_what_was_acknowledged_survives_a_kill(house: House, tmp_path: Path) -> None:
    """SIGKILL right after the 201; the next server has the adapter and serves it."""
    data_dir = tmp_path / "data"
    key = create_tenant(data_dir, "tenant")
    question: dict[str, Any] = {
        "model": "mine",
        "prompt": "one two",
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
    }
    headers = {"Authorization": f"Bearer {key}"}
    with server_process(*flags(house.checkpoint, data_dir)) as server:
        reply = upload(server.url, key, "mine", house.oracles["dora"].directory)
        os.kill(server.process.pid, signal.SIGKILL)
        assert reply.status_code == 201
        server.process.wait()
    with server_process(*flags(house.checkpoint, data_dir)) as server:
        answer = httpx.post(
            f"{server.url}/v1/completions", json=question, headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-adapter-digest"] == reply.json()["digest"]
        with httpx.Client(headers={"Authorization": f"Bearer {house.keys['dora']}"}) as client:
            same = client.post(f"{house.server.url}/v1/completions", json=question, timeout=60)
    assert answer.json()["choices"] == same.json()["choices"]
