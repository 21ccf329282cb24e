"""A load on a runtime of its own, and what its steps spent their time on."""

import json
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from motet_adapters import Adapter
from motet_adapters.errors import AdapterError

from motet.cli.profile_report import ProfileReport
from motet.cli.progress_bar import Report, progress_bar
from motet.cli.random_lora import random_lora
from motet.cli.terminal import results, say
from motet.engine.load import Load
from motet.engine.profile import profile
from motet.engine.runtime import Runtime, open_runtime
from motet.engine.stage_clock import StageClock
from motet.errors import MotetError
from motet.settings import Settings

_TENANT = "profile"


def run(
    settings: Settings,
    *,
    num_requests: int,
    num_adapters: int,
    rank: int,
    prompt_len: int,
    num_tokens: int,
    temperature: float,
    rounds: int,
    as_json: bool,
) -> None:
    """Prints a table, or JSON. Raises MotetError for a load that cannot be run."""
    try:
        load = Load(num_requests, num_adapters, rank, prompt_len, num_tokens, temperature)
    except ValueError as error:
        raise MotetError(f"{error}.") from None
    # Every round asks the same: found prompts would not be computed, and not be profiled.
    own = {"max_waiting": num_requests, "prefix_cache": "off"}
    settings = settings.model_copy(update=own)
    clock = StageClock()
    with ExitStack() as opened:
        # A store of its own: the server's is locked while it runs, and a profile leaves no trace.
        scratch = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="motet-profile-")))
        with progress_bar("Starting") as report:
            runtime = open_runtime(settings, report, store_dir=scratch, clock=clock)
            opened.enter_context(closing(runtime))
            adapters = _upload(runtime, load, report)
            report("Running the load", 1.0)
            measured = profile(runtime, clock, load, adapters, rounds)
        shown = ProfileReport(load, rounds, runtime, measured)
    if as_json:
        say(results(), json.dumps(shown.as_dict(), indent=2))
    else:
        shown.print(results())


def _upload(runtime: Runtime, load: Load, report: Report) -> list[Adapter]:
    uploaded = []
    try:
        for seed in range(load.num_adapters):
            report("Making adapters", 1.0)
            with runtime.store.stage() as staging:
                for name, content in random_lora(runtime.base, load.rank, seed).items():
                    staging.write(name, content)
                uploaded.append(runtime.store.put(_TENANT, f"random-{seed}", staging))
    except AdapterError as error:
        raise MotetError(error.message, error.code, error.param) from None
    return uploaded
