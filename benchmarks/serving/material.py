"""Makes the base and the adapters of a benchmark.

    python material.py MODEL_DIR ADAPTERS_DIR lora-0 dora-0 --rank 16 --cache-dir DIR [--base ...]

The base is a plain transformers directory in bf16 whose linears hold what NF4 makes of them: all
systems run the same weights. An adapter has random A and B on all seven projections; one whose
name begins with "dora" is a DoRA.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from motet.demo.training import plain_model
from motet.engine.base import open_base
from motet.engine.base.tokenizer_files import load_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Large enough to change answers, small enough to keep them finite.
WEIGHT_SCALE = 0.02


def make_model(directory: Path, base_name: str | None, cache_dir: Path) -> None:
    base = open_base(base_name, cache_dir=cache_dir)
    model = plain_model(base, torch.bfloat16)
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    load_tokenizer(base.directory).save_pretrained(unfinished)
    unfinished.rename(directory)


def make_adapters(base: Path, directory: Path, names: Sequence[str], rank: int) -> None:
    for use_dora in (False, True):
        chosen = [name for name in names if name.startswith("dora") == use_dora]
        if not chosen:
            continue
        plain: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=PROJECTIONS,
            use_dora=use_dora,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(plain, config).to(torch.bfloat16)
        for seed, name in enumerate(chosen):
            _randomise(model, seed)
            model.save_pretrained(str(directory / name))


@torch.no_grad()
def _randomise(model: PeftModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * WEIGHT_SCALE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("adapters", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--base")
    parser.add_argument("--cache-dir", type=Path, required=True)
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        make_model(options.model, options.base, options.cache_dir)
    make_adapters(options.model, options.adapters, options.names, options.rank)


if __name__ == "__main__":
    main()
