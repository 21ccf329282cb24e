"""transformers and PEFT as their users run them, in a process of its own.

    python peft_worker.py nf4|bf16 MODEL_DIR ADAPTER_DIR... --threads 2

Reads one JSON batch a line on stdin, answers one JSON line on stdout:
{"prompts": [[ids]], "adapters": [name or null], "num_tokens": n} gives {"num_tokens", "seconds"} or
{"refused": reason}. The first line out, before any comes in, says what runs.

A batch over one adapter runs with that adapter active; one over several is PEFT's mixed batch
(`adapter_names`), which refuses DoRA. bitsandbytes 0.50 repacks its weights at the first forward
pass, after which dequantising them gives wrong values: nothing here dequantises, and only speeds
are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

PACKAGES = {"bf16": ("peft", "transformers", "torch")}
PACKAGES["nf4"] = (*PACKAGES["bf16"], "bitsandbytes")


class PeftWorker:
    def __init__(self, kind: str, model: Path, adapters: Sequence[Path]) -> None:
        base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        base.generation_config.eos_token_id = None  # every answer has the length asked for
        base.generation_config.pad_token_id = 0
        if kind == "nf4":
            quantise(base)
        self._model: Any = base
        for directory in adapters:
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(str(directory), directory.name)
            else:
                self._model = PeftModel.from_pretrained(base, str(directory), directory.name)
        if adapters:
            self._model = self._model.to(torch.bfloat16)  # PEFT loads them as float32
        self._model.eval()

    @torch.inference_mode()
    def run(self, batch: dict[str, Any]) -> dict[str, Any]:
        ids = torch.tensor(batch["prompts"])
        names: list[str | None] = batch["adapters"]
        settings: dict[str, Any] = {}
        if len(set(names)) > 1:
            settings["adapter_names"] = [name or "__base__" for name in names]
        elif names[0] is not None:
            self._model.set_adapter(names[0])
        begun = time.perf_counter()
        try:
            output = self._generate(ids, batch["num_tokens"], names[0] is None, settings)
        except ValueError as refusal:
            return {"refused": str(refusal)}
        return {
            "num_tokens": output[:, ids.shape[1] :].numel(),
            "seconds": time.perf_counter() - begun,
        }

    def _generate(
        self, ids: torch.Tensor, num_tokens: int, plain: bool, settings: dict[str, Any]
    ) -> torch.Tensor:
        settings |= {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": num_tokens,
            "do_sample": False,
        }
        if plain and isinstance(self._model, PeftModel) and "adapter_names" not in settings:
            with self._model.disable_adapter():
                output: torch.Tensor = self._model.generate(**settings)
                return output
        output = self._model.generate(**settings)
        return output


def quantise(model: PreTrainedModel) -> None:
    """bitsandbytes' NF4 linears, in place; the weights are on its grid already."""
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            linear = Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                compress_statistics=False,
            )
            linear.weight = Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=False
            )
            linear.bias = module.bias
            model.set_submodule(path, linear.to("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=sorted(PACKAGES))
    parser.add_argument("model", type=Path)
    parser.add_argument("adapters", type=Path, nargs="*")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # The answers keep the real stdout; what a library prints goes where its log goes.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = PeftWorker(options.kind, options.model, options.adapters)
    said = ", ".join(f"{name} {version(name)}" for name in PACKAGES[options.kind])
    print(json.dumps({"ready": said}), file=answers)
    for line in sys.stdin:
        print(json.dumps(worker.run(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
