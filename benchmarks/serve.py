"""Tokens per second of Motet and of PEFT's mixed batch, on one NF4 base, in one run.

    .venv/bin/python benchmarks/serve.py [--requests 1 8 32] [--adapters 8] [--rounds 3]

Three systems answer the same greedy requests, spread over the same LoRA adapters (random weights,
all seven projections), every prompt and every answer of a fixed length, in this process:

- Motet's engine (submit to last event; no HTTP on either side);
- transformers + bitsandbytes NF4 + PEFT `adapter_names`, as its users run it;
- the same with the weights dequantised to bfloat16 once: more memory, and faster on a CPU.

Rounds alternate between the systems, and the median of each is printed: the machine's speed may
drift, the ratio drifts less.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import bitsandbytes as bnb
import torch
from motet.demo.training import plain_model
from motet.engine.request import Event, Finished, Request, SamplingParams
from motet.engine.runtime import Runtime, open_runtime
from motet.settings import Settings
from motet_adapters import Adapter
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        _run(arguments, Path(scratch))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="as for motet serve; default: the demo base")
    parser.add_argument("--data-dir", type=Path, default=Path("motet-data"))
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-len", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def _run(arguments: argparse.Namespace, scratch: Path) -> None:
    base_cache = Settings(base=arguments.base, data_dir=arguments.data_dir)
    settings = base_cache.model_copy(
        update={"data_dir": arguments.data_dir, "threads": arguments.threads}
    )
    runtime = open_runtime(settings, lambda _doing, _done: None)
    try:
        plain = plain_model(runtime.base, torch.bfloat16)
        names = [f"bench-{index}" for index in range(arguments.adapters)]
        dense = _peft(plain, names, arguments.rank)
        dense.save_pretrained(str(scratch))
        adapters = [_upload(runtime, name, scratch / name) for name in names]
        quantised = _peft(_with_bitsandbytes(plain), names, arguments.rank)
        runtime.engine.start()
        motet = _Motet(runtime, adapters, arguments.tokens)
        systems: dict[str, Callable[[list[list[int]]], int]] = {
            "Motet": motet,
            "PEFT on bitsandbytes NF4": _Peft(quantised, names, arguments.tokens),
            "PEFT on bfloat16": _Peft(dense, names, arguments.tokens),
        }
        _header(runtime, arguments)
        for num_requests in arguments.requests:
            _row(systems, _prompts(runtime, num_requests, arguments.prompt_len), arguments.rounds)
        for name in names:
            runtime.store.delete("bench", name)
    finally:
        runtime.close()


def _row(
    systems: dict[str, Callable[[list[list[int]]], int]], prompts: list[list[int]], rounds: int
) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in systems}
    for system in systems.values():
        system(prompts[: min(len(prompts), 8)])  # brings adapters and caches in
    for _ in range(rounds):
        for name, system in systems.items():
            begun = time.perf_counter()
            num_tokens = system(prompts)
            speeds[name].append(num_tokens / (time.perf_counter() - begun))
    motet, nf4, dense = (statistics.median(values) for values in speeds.values())
    print(
        f"| {len(prompts):3d} | {motet:7.1f} | {nf4:7.1f} | {dense:7.1f} "
        f"| {motet / nf4:5.1f} | {motet / dense:5.1f} |",
        flush=True,
    )


class _Motet:
    """All prompts at once through the engine; returns the tokens generated."""

    def __init__(self, runtime: Runtime, adapters: Sequence[Adapter], num_tokens: int) -> None:
        self._runtime = runtime
        self._adapters = adapters
        self._num_tokens = num_tokens
        self._num_calls = 0

    def __call__(self, prompts: list[list[int]]) -> int:
        self._num_calls += 1
        params = SamplingParams(max_tokens=self._num_tokens, temperature=0.0, ignore_eos=True)
        left = threading.Semaphore(0)
        ended: list[Finished] = []

        def deliver(event: Event) -> None:
            if isinstance(event, Finished):
                ended.append(event)
                left.release()

        for index, prompt in enumerate(prompts):
            adapter = self._adapters[index % len(self._adapters)]
            name = f"{self._num_calls}-{index}"
            self._runtime.engine.submit(
                Request(name, tuple(prompt), params, adapter, adapter.tenant), deliver
            )
        for _ in prompts:
            left.acquire()
        if any(event.reason != "length" for event in ended):
            raise RuntimeError(f"a request ended early: {ended}")
        return sum(event.completion_len for event in ended)


class _Peft:
    """All prompts as one batch through PEFT's `adapter_names`; returns the tokens generated."""

    def __init__(self, model: PeftModel, names: Sequence[str], num_tokens: int) -> None:
        self._model = model
        self._names = names
        self._num_tokens = num_tokens

    @torch.inference_mode()
    def __call__(self, prompts: list[list[int]]) -> int:
        ids = torch.tensor(prompts)
        chosen = [self._names[index % len(self._names)] for index in range(len(prompts))]
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            adapter_names=chosen,
            max_new_tokens=self._num_tokens,
            min_new_tokens=self._num_tokens,
            do_sample=False,
        )
        return int(output[:, ids.shape[1] :].numel())


def _peft(plain: PreTrainedModel, names: Sequence[str], rank: int) -> PeftModel:
    """`names` as LoRA adapters on a copy of the model, the same random weights each time."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(plain), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.to(torch.bfloat16).eval()


def _with_bitsandbytes(plain: PreTrainedModel) -> PreTrainedModel:
    """The model with bitsandbytes' NF4 linears; the weights are on its grid already."""
    model = copy.deepcopy(plain)
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            linear = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                compress_statistics=False,
            )
            linear.weight = bnb.nn.Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=False
            )
            linear.bias = module.bias
            model.set_submodule(path, linear.to("cpu"))
    return model.eval()


def _upload(runtime: Runtime, name: str, directory: Path) -> Adapter:
    with runtime.store.stage() as staging:
        for filename in ("adapter_config.json", "adapter_model.safetensors"):
            staging.write(filename, (directory / filename).read_bytes())
        return runtime.store.put("bench", name, staging)


def _prompts(runtime: Runtime, count: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    high = min(runtime.engine.vocab_size, 30000)
    prompts: list[list[int]] = torch.randint(
        100, high, (count, length), generator=generator
    ).tolist()
    return prompts


def _header(runtime: Runtime, arguments: argparse.Namespace) -> None:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = ("torch", "transformers", "bitsandbytes", "peft")
    print(
        f"{runtime.base.name}, {arguments.adapters} LoRA adapters of rank {arguments.rank} on all "
        f"projections, prompts of {arguments.prompt_len}, {arguments.tokens} generated, greedy.\n"
        f"{cpu}, {arguments.threads} threads, kernels: {runtime.kernels}; "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + f".\nTokens per second, median of {arguments.rounds} alternating rounds.\n"
    )
    print("| requests | Motet | PEFT on bnb NF4 | PEFT on bf16 | ratio to NF4 | ratio to bf16 |")
    print("|---|---|---|---|---|---|", flush=True)


if __name__ == "__main__":
    main()
