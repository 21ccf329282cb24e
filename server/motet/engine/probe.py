"""Proof at start-up that the seams carry for this very model, before it answers anybody.

The same tokens go through the model twice: once plainly, with transformers' own eager attention
over the whole prompt, and once paged, in chunks and single tokens, two sequences in one batch.
The logits must agree, or the model is refused. Before that, the layers that may run in one call are
tried (layers.py), and then calling what is around them directly (direct_forward.py), so that what
is probed is what will serve.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from motet.engine.batch import Batch, BatchLayout
from motet.engine.blocks import BlockPool
from motet.engine.request import Event, Request, SamplingParams
from motet.engine.sampler import TokenCounts
from motet.engine.scheduler import Row
from motet.engine.sequence import Sequence
from motet.engine.stops import StopStrings
from motet.errors import UnsupportedModel

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference allowed, relative to the largest logit."""

TOLERANCE_OF_ROUNDED_INPUTS = 0.15
"""The same where inputs of products are rounded to 8 bits; a part of a model that is left out makes
a difference of about 1."""

CHUNKS = (9, 4, 1, 1)
"""The paged run's rows: two prompt chunks, then single tokens; together at most
`kv_cache.LEAST_LEN`, for which every cache has room."""


class ProbedModel(Protocol):
    """What the probe needs of a model: one prompt both ways, on the base alone."""

    dtype: torch.dtype
    vocab_size: int
    layout: BatchLayout

    def plain_logits(self, ids: list[int]) -> Tensor:
        """ids [T] -> [V]: the logits after the last token, by transformers alone."""
        ...

    def forward(self, batch: Batch) -> Tensor:
        """Logits [R, V] of the batch's sampling rows."""
        ...

    def layers_on_trial(self) -> AbstractContextManager[None]:
        """Paged forwards within decide which layers run in one call from then on."""
        ...

    def forward_on_trial(self) -> AbstractContextManager[None]:
        """Paged forwards within decide whether the parts around the layers are called directly."""
        ...


def probe(model: ProbedModel, *, rounds_inputs: bool = False) -> float:
    """The largest relative difference seen. Raises UnsupportedModel if it is too large.

    rounds_inputs: whether the paged forward rounds inputs of products to 8 bits.
    """
    allowed = TOLERANCE_OF_ROUNDED_INPUTS if rounds_inputs else TOLERANCE[model.dtype]
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, model.vocab_size, (2, sum(CHUNKS)), generator=generator)
    prompts: list[list[int]] = draw.tolist()
    with model.layers_on_trial():
        _paged_logits(model, prompts)
    with model.forward_on_trial():
        _paged_logits(model, prompts)
    plain = torch.stack([model.plain_logits(prompt) for prompt in prompts]).float()
    paged = _paged_logits(model, prompts).float()
    difference = float((plain - paged).abs().max() / plain.abs().max())
    # Written so that a NaN refuses too.
    if not difference <= allowed:
        raise UnsupportedModel(
            f"its paged forward differs from the plain one by {difference:.1e} of the largest "
            f"logit (allowed: {allowed:.0e}), so its answers could not be trusted"
        )
    return difference


def _paged_logits(model: ProbedModel, prompts: list[list[int]]) -> Tensor:
    """Prompts P x [T] -> [P, V]: side by side, in passes of `CHUNKS` tokens."""
    blocks = BlockPool(len(prompts) * sum(CHUNKS), model.layout.block_size)
    sequences = [silent_sequence(index, prompt) for index, prompt in enumerate(prompts)]
    logits = torch.empty(0)
    for count in CHUNKS:
        rows = [Row(sequence, sequence.num_computed, count, slot=0) for sequence in sequences]
        for sequence in sequences:
            sequence.num_computed += count
            blocks.grow(sequence.blocks, sequence.num_computed)
        logits = model.forward(Batch.build(rows, model.layout))
    return logits


class _Silent:
    """A decoder for sequences nobody reads."""

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def silent_sequence(index: int, prompt: list[int]) -> Sequence:
    """A sequence on the base that nobody hears of."""
    request = Request(
        f"probe-{index}", tuple(prompt), SamplingParams(max_tokens=1), adapter=None, tenant="probe"
    )
    return Sequence(
        request=request,
        arrival=index,
        deliver=_discard,
        decoder=_Silent(),
        stops=StopStrings(()),
        counts=TokenCounts(prompt),
    )


def _discard(_event: Event) -> None:
    """The probe's sequences are never finished, so nothing is ever delivered."""
