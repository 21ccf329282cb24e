"""What the engine counts. Read by anyone, written by the engine thread alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motet_adapters import ArenaStats


@dataclass(frozen=True)
class EngineStats:
    """One consistent reading of the engine's counters; counts are since start unless said so."""

    num_waiting: int  # requests accepted and not yet in a forward pass, now
    num_running: int  # requests that hold KV blocks, now
    num_blocks: int  # KV blocks in all
    num_free_blocks: int  # KV blocks free, now, cached ones included
    num_cached_blocks: int  # KV blocks that nobody uses, kept for what is in them, now
    block_size: int  # positions in one KV block
    num_steps: int  # forward passes
    num_mixed_steps: int  # passes that held a base row and rows of at least three adapters
    steps_by_num_adapters: Mapping[int, int]  # distinct adapters in a pass -> number of passes
    num_prompt_tokens: int  # prompt tokens computed, recomputation included
    num_cached_tokens: int  # prompt tokens found in the KV cache and not computed
    num_virtual_tokens: int  # virtual tokens computed; those that are stored are not
    num_generated_tokens: int
    num_preemptions: int
    num_failed_steps: int  # passes that raised; their rows ended in an error
    num_isolation_violations: int  # rows found on another adapter than their own
    arena: ArenaStats
