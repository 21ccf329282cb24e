"""`motet profile`: flags first, the model later."""

from typing import Annotated

import typer

from motet.cli.model_work import load
from motet.cli.settings_flags import with_settings
from motet.settings import Settings


@with_settings(
    "base",
    "data_dir",
    "device",
    "dtype",
    "double_quant",
    "threads",
    "fast_math",
    "kv_cache_bytes",
    "block_size",
    "max_num_seqs",
    "max_batch_tokens",
    "chunk_len",
    "adapter_device_bytes",
    "max_adapter_slots",
    "max_adapter_rank",
)
def profile(
    settings: Settings,
    requests: Annotated[int, typer.Option(min=1, help="Requests that arrive together.")] = 32,
    adapters: Annotated[
        int,
        typer.Option(min=0, help="Random LoRA adapters they are spread over; 0: all on the base."),
    ] = 8,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 16,
    prompt_len: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate for each.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    rounds: Annotated[int, typer.Option(min=1, help="Runs; the fastest is shown.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show where a step's time goes under a load.

    Runs the load on a base and its kernels as `motet serve` would, without HTTP, and writes
    nothing but the base cache under the data directory.
    """
    load("profiling")(
        settings,
        num_requests=requests,
        num_adapters=adapters,
        rank=rank,
        prompt_len=prompt_len,
        num_tokens=tokens,
        temperature=temperature,
        rounds=rounds,
        as_json=as_json,
    )
