"""What rounding inputs to 8 bits does to the next token's distribution: `fast_math` on a CPU.

    .venv/bin/python benchmarks/fast_math.py [--base DIR] [--data-dir DIR]

Passages of this project's own pages are read by the base three times: in float32, in bfloat16 and
in bfloat16 with fast_math, as `motet serve` would compute them. Shown is how far each of the latter
two is from float32 over all tokens after the first few: the Kullback-Leibler divergence of the next
token's distribution (in nats), how often the likeliest token is the same one, and the root mean
square error of the logits, each row's mean taken off, relative to their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

# `kernels.py` beside this file is not the package of that name that bitsandbytes looks for.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from motet.engine.batch import Batch
from motet.engine.blocks import BlockPool
from motet.engine.model import PagedModel
from motet.engine.probe import silent_sequence
from motet.engine.runtime import Runtime, open_runtime
from motet.engine.scheduler import Row
from motet.settings import Settings
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/operations.md", "docs/architecture.md", "docs/performance.md")
PASSAGES_PER_PAGE = 6
PASSAGE_LEN = 96
FIRST = 16  # tokens whose own next tokens are not compared
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {},
    "bfloat16, fast_math": {"fast_math": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", help="as for motet serve; default: the demo base")
    parser.add_argument("--data-dir", type=Path, default=Settings().data_dir)
    options = parser.parse_args()
    logits = {}
    for name, settings in KINDS.items():
        logits[name] = read(Settings(base=options.base, data_dir=options.data_dir, **settings))
    truth = logits.pop("float32")
    print(f"{len(truth)} tokens of {len(PAGES) * PASSAGES_PER_PAGE} passages, against float32\n")
    print("| computed in | divergence, nats | same likeliest token | error of the logits |")
    print("| :--- | ---: | ---: | ---: |")
    for name, found in logits.items():
        divergence, same, error = difference(found, truth)
        print(f"| {name} | {divergence:.4f} | {same:.1%} | {error:.1%} |")


def read(settings: Settings) -> Tensor:
    """Logits [positions, V] of all passages."""
    with tempfile.TemporaryDirectory() as scratch, closing(opened(settings, scratch)) as runtime:
        passages = [
            passage for page in PAGES for passage in cut(runtime, (ROOT / page).read_text("utf-8"))
        ]
        return torch.cat(list(steps(runtime.engine._model, passages)))


def opened(settings: Settings, scratch: str) -> Runtime:
    return open_runtime(settings, lambda _doing, _done: None, store_dir=Path(scratch))


def cut(runtime: Runtime, text: str) -> list[list[int]]:
    """Passages that lie evenly in a page."""
    ids = list(runtime.tokenizer.encode(text))
    stride = (len(ids) - PASSAGE_LEN) // (PASSAGES_PER_PAGE - 1)
    return [ids[i * stride : i * stride + PASSAGE_LEN] for i in range(PASSAGES_PER_PAGE)]


def steps(model: PagedModel, passages: list[list[int]]) -> Iterator[Tensor]:
    """Logits after each token from FIRST on, but for the last: all passages side by side."""
    blocks = BlockPool(len(passages) * PASSAGE_LEN, model.layout.block_size)
    sequences = [silent_sequence(i, passage[:FIRST]) for i, passage in enumerate(passages)]
    for length in range(FIRST, PASSAGE_LEN):
        rows = []
        for sequence in sequences:
            count = length - sequence.num_computed
            rows.append(Row(sequence, sequence.num_computed, count, slot=0))
            sequence.num_computed = length
            blocks.grow(sequence.blocks, length)
        yield model.forward(Batch.build(rows, model.layout)).float()
        for sequence, passage in zip(sequences, passages, strict=True):
            sequence.tokens.append(passage[length])


def difference(found: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Divergence, share of equal likeliest tokens, relative error of the logits."""
    found_log, truth_log = found.log_softmax(-1), truth.log_softmax(-1)
    divergence = (truth_log.exp() * (truth_log - found_log)).sum(-1).mean()
    same = (found.argmax(-1) == truth.argmax(-1)).float().mean()
    centred = [logits - logits.mean(-1, keepdim=True) for logits in (found, truth)]
    error = (centred[0] - centred[1]).square().mean().sqrt() / centred[1].square().mean().sqrt()
    return float(divergence), float(same), float(error)


if __name__ == "__main__":
    main()
