"""A tuning table for a GPU that nobody has measured: derived from its architecture's figures.

The reasoning, all of it a prediction:

- Codes are read 16 bytes a thread: a trip of the inner loop reads 32 bytes of each output, so two
  threads an output, lanes * num_warps <= 2 * block_outputs.
- A program reads its weights once for its rows, so a block of rows as large as the step's is the
  least to read; how many fit is a matter of registers (seen in compiled kernels).
- The outputs are the first operand's rows of tl.dot. From wide_dot_rows of them on it would take
  another instruction in four warps, whose operand is read 8 bytes a thread: so there are two.
- Fewer programs than multiprocessors leave some without work: linears with few outputs are cut
  into narrower blocks.
"""

from __future__ import annotations

from motet_kernels.gpu.architectures import Architecture
from motet_kernels.gpu.tuning import (
    AttentionConfig,
    Entry,
    GemvConfig,
    LinearConfig,
    LowRankConfig,
    TuningTable,
)

MULTIPROCESSORS = 100  # assumed where unknown; L4 has 58, A100 108, H100 132, MI300X 304
WIDE, NARROW = 64, 32  # outputs of a block
BLOCKS_OF_ROWS = (16, 32)


def predicted(
    architecture: Architecture,
    gpus: tuple[str, ...] = (),
    multiprocessors: int = MULTIPROCESSORS,
) -> TuningTable:
    """The table for an architecture, or for named GPUs of it with so many multiprocessors."""
    stages = 4 if architecture.backend == "cuda" else 2
    linears = []
    for most in BLOCKS_OF_ROWS:
        limits = {} if most == BLOCKS_OF_ROWS[-1] else {"rows": most}
        few = {**limits, "outputs": multiprocessors * WIDE}
        linears += [
            Entry(few, LinearConfig(most, NARROW, _warps(architecture, NARROW), stages)),
            Entry(limits, LinearConfig(most, WIDE, _warps(architecture, WIDE), stages)),
        ]
    gemvs = [Entry({}, GemvConfig(NARROW, _warps(architecture, NARROW)))]
    lowrank = LowRankConfig(
        block_inputs=64,
        split_len=1024,
        max_splits=8,
        block_ranks=16,
        block_outputs=64,
        num_warps=4,
        num_stages=min(stages, 3),
    )
    attentions = [Entry({}, _attention(architecture))]
    count = f"{multiprocessors} multiprocessors" + ("" if gpus else " assumed")
    return TuningTable(
        gpus,
        architecture.name,
        f"predicted: tuning_formula.py for {architecture.name}, {count}; never measured",
        tuple(linears),
        tuple(gemvs),
        (Entry({}, lowrank),),
        tuple(attentions),
    )


def _attention(architecture: Architecture) -> AttentionConfig:
    """The largest blocks that were seen to leave each architecture's registers unspilled."""
    if architecture.backend == "cuda":
        return AttentionConfig(32, 32, 256, num_warps=4, num_stages=2)
    if architecture.lanes == 64:
        return AttentionConfig(16, 32, 256, num_warps=4, num_stages=2)
    return AttentionConfig(16, 16, 256, num_warps=8, num_stages=1)


def _warps(architecture: Architecture, outputs: int) -> int:
    most = 2 if architecture.wide_dot_rows else 4
    return min(most, max(1, 2 * outputs // architecture.lanes))
