"""The offline check of an adapter: the store's own, in a store that is thrown away."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from motet_adapters import Adapter, AdapterStore, Limits
from motet_adapters.errors import AdapterError
from motet_kernels import select_ops

from motet.cli.adapter_files import AdapterFiles
from motet.cli.adapter_table import adapter_facts
from motet.cli.progress_bar import progress_bar
from motet.cli.terminal import remarks, results, say
from motet.engine.base import QuantizedBase, open_base
from motet.engine.surveyed_base import surveyed
from motet.errors import MotetError
from motet.settings import Settings

_TENANT = "check"


def run(files: AdapterFiles, name: str, lossy_rank: int | None, settings: Settings) -> None:
    """Prints what was matched. Raises MotetError with the store's own sentence for a refusal."""
    with progress_bar("Opening the base") as progress:
        base = open_base(
            settings.base,
            cache_dir=settings.data_dir,
            double_quant=settings.double_quant,
            progress=progress,
        )
    base = surveyed(base)
    # A store of its own: the server's is locked while it runs, and a check leaves no trace.
    with tempfile.TemporaryDirectory(prefix="motet-check-") as scratch:
        adapter = _checked(_store(Path(scratch), base, settings), files, name, lossy_rank)
    results().print(adapter_facts(asdict(adapter)), markup=False)
    say(remarks(), f"Adapter {name} fits {base.name}.")


def _checked(
    store: AdapterStore, files: AdapterFiles, name: str, lossy_rank: int | None
) -> Adapter:
    try:
        with store.stage() as staging:
            files.write_into(staging.write)
            return store.check(_TENANT, name, staging, lossy_rank=lossy_rank)
    except AdapterError as error:
        raise MotetError(error.message, error.code, error.param) from None
    finally:
        store.close()


def _store(root: Path, base: QuantizedBase, settings: Settings) -> AdapterStore:
    # Images are made for the kernels of the machine the check runs on; what is accepted depends
    # on the base alone.
    compute = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    return AdapterStore(
        root,
        base,
        dtype=select_ops(torch.device("cpu")).adapter_dtype(compute),
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes, max_rank=settings.max_adapter_rank
        ),
        host_bytes=settings.adapter_host_bytes,
        max_image_bytes=settings.adapter_device_bytes,
    )
