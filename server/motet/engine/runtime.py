"""Everything below HTTP, put together from the settings: base, store, arena, engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from motet_adapters import AdapterStore, Arena, Limits
from motet_adapters.image import Image
from motet_adapters.room import RequireRoom, all_the_room
from motet_database import ChangeFeed, Database
from motet_kernels import (
    BuildFailed,
    KernelReport,
    LargestOps,
    NoFastMath,
    SamplingOps,
    Selection,
    select_kernels,
)

from motet.blobs import open_origin
from motet.engine.base import Progress, QuantizedBase, open_base
from motet.engine.cores import compute_with, usable_cores
from motet.engine.engine import Engine
from motet.engine.giving_way import GivingWay
from motet.engine.model import CacheBudget, PagedModel
from motet.engine.probe import probe
from motet.engine.sampler import Sampler
from motet.engine.scheduler import StepLimits
from motet.engine.stage_clock import StageClock
from motet.engine.timed_ops import timed
from motet.engine.timed_sampler import TimedSampler
from motet.engine.tokenizer import Tokenizer
from motet.engine.virtual_tokens import require_fit
from motet.errors import InvalidSetting, UnsupportedModel
from motet.settings import Settings


@dataclass(frozen=True)
class Runtime:
    """The running parts of one server. `engine` is not started yet when this is made."""

    settings: Settings
    base: QuantizedBase
    model_name: str
    tokenizer: Tokenizer
    store: AdapterStore
    arena: Arena
    engine: Engine
    device: torch.device
    dtype: torch.dtype
    kernels: KernelReport
    num_layers: int
    num_one_call_layers: int  # of those, the layers the kernels run as one operation
    kv_bytes: int
    weight_bytes: int  # of the base as it lies in memory
    probe_difference: float  # between the paged and the plain forward, relative

    def close(self) -> None:
        """Stop the engine and let go of files. Call it once."""
        self.engine.stop()
        self.arena.close()
        self.store.close()


class _ImageKind(NamedTuple):
    """How adapters are kept on the host for the device that they are copied to."""

    dtype: torch.dtype
    pin_memory: bool


class _Doorbell:
    """Rings an engine that is made after the arena which rings it."""

    def __init__(self) -> None:
        self.ring: Callable[[], None] = _nobody

    def __call__(self) -> None:
        self.ring()


def _nobody() -> None:
    """Before the engine exists there is nobody to wake."""


def open_runtime(
    settings: Settings,
    progress: Progress,
    *,
    database: Database | None = None,
    changes: ChangeFeed | None = None,
    require_room: RequireRoom = all_the_room,
    store_dir: Path | None = None,
    clock: StageClock | None = None,
) -> Runtime:
    """Load, quantise if need be, probe, and build all parts.

    database: of the adapters, the caller's to close; None: a file of the store's own. changes:
    tells of what other processes change in it; start it when this has returned, and close it
    before the runtime. require_room: asked before an adapter is published.
    store_dir: where the adapters are; None: in the data directory.
    clock: put around the parts whose time a profile shows; None: nothing is timed.

    Raises UnsupportedModel for a base that cannot be served, InvalidSetting for settings that do
    not fit it or each other.
    """
    compute_with(settings.threads or usable_cores())
    device = _device(settings)
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    limits = _step_limits(settings)
    progress("Choosing the kernels", 0.0)  # compiles them once, where that has not been done
    selection = _kernels(device, settings)
    ops = selection.ops if clock is None else timed(selection.ops, clock)
    base = open_base(
        settings.base,
        cache_dir=settings.data_dir,
        double_quant=settings.double_quant,
        progress=progress,
    )
    progress("Building the model", 0.9)
    budget = CacheBudget(
        settings.kv_cache_bytes,
        settings.adapter_device_bytes,
        settings.block_size,
        settings.max_model_len,
    )
    num_slots = settings.max_adapter_slots + 1  # slot 0 is the base
    model = PagedModel(
        base,
        ops,
        dtype=dtype,
        device=device,
        num_slots=num_slots,
        budget=budget,
        graph_rows=limits.max_num_seqs,
    )
    progress("Probing the model", 0.95)
    difference = _probe(base, model, rounds_inputs=settings.fast_math and device.type == "cpu")
    tokenizer = Tokenizer.load(base.directory)
    directory = store_dir or store_directory(settings.data_dir)
    served = replace(base, input_groups=model.input_groups)
    images = _ImageKind(ops.adapter_dtype(dtype), pin_memory=device.type == "cuda")
    store = _store(directory, settings, served, images, database, changes, require_room)
    doorbell = _Doorbell()

    def image(digest: str) -> Image:
        found = store.image(digest)
        require_fit(found, model.layer_shapes)
        return found

    arena = Arena(
        image,
        num_bytes=settings.adapter_device_bytes,
        num_slots=settings.max_adapter_slots,
        device=device,
        on_ready=doorbell,
    )
    store.on_removed(lambda digest: _forget(digest, arena, doorbell))
    ends = tokenizer.eos_ids
    chooser = selection.ops if isinstance(selection.ops, SamplingOps) else None
    finder = selection.ops if isinstance(selection.ops, LargestOps) else None
    sampler = (
        Sampler(ends, chooser, finder)
        if clock is None
        else TimedSampler(ends, clock, chooser, finder)
    )
    engine = Engine(
        model,
        arena,
        tokenizer,
        sampler,
        limits,
        max_waiting=settings.max_waiting,
        prefix_scope=settings.prefix_cache,
    )
    doorbell.ring = engine.wake
    store.pause_with(GivingWay(engine))
    progress("Ready", 1.0)
    return Runtime(
        settings=settings,
        base=base,
        model_name=settings.served_model_name or base.name,
        tokenizer=tokenizer,
        store=store,
        arena=arena,
        engine=engine,
        device=device,
        dtype=dtype,
        kernels=selection.report,
        num_layers=model.num_layers,
        num_one_call_layers=model.num_one_call_layers,
        kv_bytes=model.kv_bytes,
        weight_bytes=model.weight_bytes,
        probe_difference=difference,
    )


def _forget(digest: str, arena: Arena, doorbell: _Doorbell) -> None:
    """Of a deleted adapter: its room on the device, then what the engine has made of it there."""
    arena.drop(digest)
    doorbell()


def store_directory(data_dir: Path) -> Path:
    """Where the adapters of a data directory live."""
    return data_dir / "adapters"


def _device(settings: Settings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InvalidSetting(
            "device is cuda but torch sees no CUDA device; use device=cpu, or install a CUDA "
            "build of torch and a driver",
            param="device",
        )
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _kernels(device: torch.device, settings: Settings) -> Selection:
    if settings.fast_math and device.type == "cpu" and settings.dtype != "bfloat16":
        raise InvalidSetting(
            f"fast_math on a CPU rounds bfloat16 inputs, and dtype is {settings.dtype}; use "
            "dtype=bfloat16, or leave fast_math off",
            param="fast_math",
        )
    try:
        return select_kernels(device, settings.cpu_kernels, fast_math=settings.fast_math)
    except NoFastMath as error:
        raise InvalidSetting(str(error), param="fast_math") from error
    except (ValueError, BuildFailed) as error:
        raise InvalidSetting(
            f"cpu_kernels is {settings.cpu_kernels}, but {error}; use cpu_kernels=auto",
            param="cpu_kernels",
        ) from error


def _step_limits(settings: Settings) -> StepLimits:
    try:
        return StepLimits(settings.max_num_seqs, settings.max_batch_tokens, settings.chunk_len)
    except ValueError as error:
        raise InvalidSetting(str(error), param="max_batch_tokens") from error


def _probe(base: QuantizedBase, model: PagedModel, *, rounds_inputs: bool) -> float:
    try:
        return probe(model, rounds_inputs=rounds_inputs)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{base.name} cannot be served: {error.message}") from error


def _store(
    directory: Path,
    settings: Settings,
    base: QuantizedBase,
    images: _ImageKind,
    database: Database | None,
    changes: ChangeFeed | None,
    require_room: RequireRoom,
) -> AdapterStore:
    return AdapterStore(
        directory,
        base,
        dtype=images.dtype,
        pin_memory=images.pin_memory,
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes, max_rank=settings.max_adapter_rank
        ),
        host_bytes=settings.adapter_host_bytes,
        max_image_bytes=settings.adapter_device_bytes,
        database=database,
        changes=changes,
        max_versions=settings.max_adapter_versions,
        require_room=require_room,
        origin=open_origin(settings),
    )
