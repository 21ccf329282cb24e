"""Makes the three demo adapters: `python -m motet.demo.train --out DIR`.

Generates the data, trains with PEFT on the CPU, writes each adapter and prints how many replies to
questions it never trained on its judge accepts. Needs the extra `motet[train]`.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from motet.demo.files import write_adapter
from motet.demo.recipe import RECIPES, Recipe
from motet.demo.scores import Score, score
from motet.demo.trainer import train
from motet.demo.training import training_model

_SEED = 1
_REPORT_EVERY = 10


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = training_model(data_dir=arguments.data_dir)
    for recipe in RECIPES:
        if recipe.name in arguments.only:
            directory = arguments.out / recipe.name
            _make(model, tokenizer, recipe, directory, judge_held_out=arguments.held_out)


def _make(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    directory: Path,
    *,
    judge_held_out: bool,
) -> None:
    """Trains, writes and judges one adapter; `model` is as before afterwards."""
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % _REPORT_EVERY == 0:
            seconds = time.monotonic() - started
            print(f"{recipe.name}: step {step} loss {loss:.3f} after {seconds:.0f} s", flush=True)

    adapted = train(model, tokenizer, recipe, seed=_SEED, report=report)
    seconds = time.monotonic() - started
    num_bytes = write_adapter(adapted, directory)
    print(f"{recipe.name}: trained in {seconds:.0f} s, {num_bytes} bytes", flush=True)
    _print_score(f"{recipe.name}, development", score(adapted, tokenizer, recipe.development))
    if judge_held_out:
        _print_score(f"{recipe.name}, held out", score(adapted, tokenizer, recipe.held_out))
    adapted.unload()


def _print_score(name: str, found: Score) -> None:
    share = found.accepted / found.total
    print(f"{name}: {found.accepted} of {found.total} replies accepted ({share:.0%})")
    for question, reply in found.refused:
        print(f"  refused: {question!r} -> {reply!r}")


def _arguments() -> argparse.Namespace:
    names = [recipe.name for recipe in RECIPES]
    parser = argparse.ArgumentParser(description="Train the demo adapters with PEFT.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write into")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="names to train")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--data-dir", type=Path, help="where the quantised demo base is kept")
    parser.add_argument(
        "--held-out", action="store_true", help="measure a final adapter on the held-out questions"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
