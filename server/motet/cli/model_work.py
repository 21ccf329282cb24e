"""The door to the commands that need the model.

Their modules import torch and transformers, which takes seconds. `motet --help`, `motet tenants`
and the commands that only talk to a server should not wait for that, so those modules are
imported when one of their commands really runs. All of them live in `motet.cli`: nothing reaches
past the import rule through this door.
"""

import importlib
import logging
import os
from collections.abc import Callable
from typing import Any, Literal

from motet.cli.terminal import remarks

# Threads of libraries would compete with the engine's own. numpy's BLAS keeps one for each core,
# though nothing here multiplies with it; the tokenizer takes one for each core to encode in parts.
_NO_POOLS = {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

Work = Literal["serving", "quantizing", "checking", "merging", "profiling", "tuning"]


def load(work: Work) -> Callable[..., Any]:
    """The function `run` of `motet.cli.<work>`."""
    # bitsandbytes' parts that want another package are not used here, and their absence is no news.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for name, value in _NO_POOLS.items():  # read once, when the library is loaded or first used
        os.environ.setdefault(name, value)
    with remarks().status("Loading torch and transformers"):
        module = importlib.import_module(f"motet.cli.{work}")
    run: Callable[..., Any] = module.run
    return run
