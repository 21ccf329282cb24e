import io
import json
import shlex
from dataclasses import replace

import pytest
from motet.cli.banner import Facts, Sample, curl, print_banner
from motet_kernels import KernelReport
from rich.console import Console

FACTS = Facts(
    version="0.1.0",
    model="a-model-with-a-rather-long-name-of-its-own-that-does-not-fit-anywhere",
    device="CPU, 2 threads, bfloat16",
    kernels=KernelReport("cpu-native (avx2)"),
    num_layers=30,
    num_one_call_layers=30,
    weight_bytes=200 << 20,
    kv_bytes=4 << 30,
    kv_tokens=186384,
    adapter_bytes=512 << 20,
    num_adapters=3,
    access="3 tenants, each with its own key",
    url="http://127.0.0.1:8000",
    startup_s=4.2,
)
TORCH_SERVES = replace(FACTS, kernels=KernelReport("cpu", "no C++ compiler", "install g++"))
SAMPLE = Sample("red", "What's the capital of Japan? 日本", "motet_key")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_at_most_twelve_lines_and_the_curl_line_is_whole(width):
    out = io.StringIO()
    print_banner(Console(file=out, width=width, force_terminal=True), TORCH_SERVES, SAMPLE)
    lines = out.getvalue().splitlines()
    assert len(lines) <= 12
    assert lines[-1] == curl(FACTS.url, SAMPLE)


def test_what_an_operator_wants_to_know_is_there():
    out = io.StringIO()
    print_banner(Console(file=out, width=160), FACTS, SAMPLE)
    for part in (
        FACTS.model,
        "CPU, 2 threads, bfloat16, cpu-native (avx2) kernels",
        "200 MiB weights, 4.0 GiB KV cache (186,384 tokens), 512 MiB adapters",
        "3 in the store",
        "3 tenants, each with its own key",
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/openapi.json",
        "4.2 s",
    ):
        assert part in out.getvalue()
    assert "slower" not in out.getvalue()


def test_kernels_slower_than_they_could_be_are_said_with_the_fix():
    out = io.StringIO()
    print_banner(Console(file=out, width=160), TORCH_SERVES, SAMPLE)
    sentence = "torch instead of native kernels: no C++ compiler; install g++ and start again"
    assert sentence in out.getvalue()
    old = replace(FACTS, kernels=KernelReport("cpu", "the processor has no AVX2"))
    print_banner(Console(file=out, width=160), old, SAMPLE)
    assert "torch instead of native kernels: the processor has no AVX2 " in out.getvalue()


def test_a_shell_reads_the_curl_line_as_it_was_meant():
    words = shlex.split(curl(FACTS.url, SAMPLE))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/chat/completions"]
    assert "Authorization: Bearer motet_key" in words
    body = json.loads(words[-1])
    assert body["model"] == "red"
    assert body["messages"] == [{"role": "user", "content": SAMPLE.prompt}]


def test_without_a_key_none_is_sent_and_without_a_template_no_chat():
    line = curl(FACTS.url, Sample("base", "The capital of France is", None, chat=False))
    assert "Authorization" not in line
    assert "/v1/completions" in line
    assert json.loads(shlex.split(line)[-1])["prompt"] == "The capital of France is"


@pytest.mark.parametrize(
    ("number", "said"), [(30, "all layers in one call"), (12, "12 of 30 layers in one call")]
)
def test_it_says_which_layers_run_in_one_call(number, said):
    out = io.StringIO()
    print_banner(Console(file=out, width=160), replace(FACTS, num_one_call_layers=number), SAMPLE)
    assert said in out.getvalue()
