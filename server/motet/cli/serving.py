"""The serving process: open everything, say what is there, serve until told to stop."""

import gc
import logging.config
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from importlib.metadata import version

import torch
from motet_adapters.errors import AdapterError
from motet_database import ChangeFeed, Database

from motet.api.app import build_app
from motet.api.kernels import KernelsInUse
from motet.api.log_form import log_config
from motet.api.server import bind, run_server
from motet.api.service import ServedModel
from motet.cli.banner import Facts, Sample, print_banner
from motet.cli.demo_adapters import ensure_demo_adapters
from motet.cli.demo_keys import DemoKeys
from motet.cli.progress_bar import Report, progress_bar
from motet.cli.terminal import results
from motet.database import open_database
from motet.demo.catalog import DEMO_TENANTS, DemoTenant
from motet.engine.runtime import Runtime, open_runtime
from motet.errors import InvalidSetting, MotetError
from motet.settings import Settings
from motet.tenancy.exposure import check_exposure
from motet.tenancy.tenancy import Tenancy
from motet.tenancy.tenants import DEFAULT_TENANT, Tenants

_SWITCH_INTERVAL_S = 0.0005
"""How long a thread that computes in Python keeps the interpreter when the engine's wants it: the
engine gives it away at each of its tensor operations, and Python's own 5 ms would be waited each
time that an upload's bytes are being parsed."""

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def run(settings: Settings, *, demo: bool, started: float) -> None:
    """Serves until SIGTERM or SIGINT; `started` is when that was asked for (monotonic seconds).

    Raises MotetError for everything the operator can mend.
    """
    if demo and settings.base is not None:
        raise InvalidSetting(
            "--demo brings adapters that were trained for the demo base; leave out --base, or "
            "leave out --demo."
        )
    logging.config.dictConfig(log_config(settings.log_format))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with ExitStack() as opened:
        database = opened.enter_context(closing(open_database(settings)))
        feed = ChangeFeed(database)
        tenancy = Tenancy(database, feed, settings)
        tenants = tenancy.tenants
        sample = _demo_sample(settings, tenancy) if demo else None
        # Both before the model is loaded, not minutes after.
        check_exposure(settings, tenants)
        bound = [opened.enter_context(one) for one in bind(settings)]
        with progress_bar("Starting") as report:
            parts = _open(settings, database, feed, tenancy, report, demo=demo)
            runtime = opened.enter_context(closing(parts))
        opened.enter_context(closing(feed))
        feed.start()
        app = build_app(
            settings,
            runtime.engine,
            runtime.store,
            tenancy,
            runtime.tokenizer,
            ServedModel(runtime.model_name, runtime.base.fingerprint, int(time.time())),
            KernelsInUse(**asdict(runtime.kernels)),
        )

        def announce(url: str) -> None:
            facts = _facts(runtime, tenants, _reachable(url), time.monotonic() - started)
            print_banner(results(), facts, sample or _sample(runtime, tenants))

        keep_for_good()
        run_server(app, settings, bound, announce)


def keep_for_good() -> None:
    """Let Python's collector pass over everything there is now, which stays until the end anyway.

    Walking all of torch and transformers takes it a third of a second, with every request waiting.
    """
    gc.collect()
    gc.freeze()


def _demo_sample(settings: Settings, tenancy: Tenancy) -> Sample:
    keys = DemoKeys(settings.data_dir).ensure(tenancy, [one.tenant for one in DEMO_TENANTS])
    first = DEMO_TENANTS[0]
    return Sample(first.adapter, first.prompt, keys[first.tenant])


def _sample(runtime: Runtime, tenants: Tenants) -> Sample:
    """The base, asked with the key of whoever pastes the line."""
    key = "$MOTET_API_KEY" if tenants.configured() else None
    if runtime.tokenizer.has_chat_template:
        return Sample(runtime.model_name, "What is the capital of France?", key)
    return Sample(runtime.model_name, "The capital of France is", key, chat=False)


def _open(
    settings: Settings,
    database: Database,
    feed: ChangeFeed,
    tenancy: Tenancy,
    report: Report,
    *,
    demo: bool,
) -> Runtime:
    try:
        runtime = open_runtime(
            settings,
            report,
            database=database,
            changes=feed,
            require_room=tenancy.quotas.require_room,
        )
        try:
            if demo:
                ensure_demo_adapters(runtime.store, _by_id(DEMO_TENANTS, tenancy), report)
        except BaseException:
            runtime.close()
            raise
    except AdapterError as error:
        raise MotetError(error.message, error.code, error.param) from None
    runtime.store.start_upkeep(settings.scrub_bytes_per_s)
    return runtime


def _by_id(demo: Iterable[DemoTenant], tenancy: Tenancy) -> list[DemoTenant]:
    """What belongs to a tenant is stored under its id, which need not be its name."""
    return [replace(one, tenant=tenancy.tenants.get(one.tenant).id) for one in demo]


def _facts(runtime: Runtime, tenants: Tenants, url: str, startup_s: float) -> Facts:
    stats = runtime.engine.stats()
    owners = [tenant.id for tenant in tenants.list()] or [DEFAULT_TENANT]
    return Facts(
        version=version("motet"),
        model=runtime.model_name,
        device=_device(runtime),
        kernels=runtime.kernels,
        num_layers=runtime.num_layers,
        num_one_call_layers=runtime.num_one_call_layers,
        weight_bytes=runtime.weight_bytes,
        kv_bytes=runtime.kv_bytes,
        kv_tokens=stats.num_blocks * stats.block_size,
        adapter_bytes=runtime.settings.adapter_device_bytes,
        num_adapters=sum(len(runtime.store.list(owner)) for owner in owners),
        access=_access(tenants),
        url=url,
        startup_s=startup_s,
    )


def _device(runtime: Runtime) -> str:
    dtype = str(runtime.dtype).removeprefix("torch.")
    if runtime.device.type == "cuda":
        where = torch.cuda.get_device_name(runtime.device)
    else:
        where = f"CPU, {torch.get_num_threads()} threads"
    return f"{where}, {dtype}"


def _access(tenants: Tenants) -> str:
    if not tenants.configured():
        return "no tenants: this machine only, no key (motet tenants create NAME)"
    active = sum(tenant.state == "active" for tenant in tenants.list())
    return f"{active} tenant{'' if active == 1 else 's'}, each with its own key"


def _reachable(url: str) -> str:
    """The URL to ask from this machine; "every address" is none that can be asked."""
    for anywhere, here in _ANYWHERE.items():
        url = url.replace(f"//{anywhere}:", f"//{here}:")
    return url
