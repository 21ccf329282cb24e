"""Merging an adapter into a checkpoint."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from motet_adapters import AdapterStore, Limits
from motet_adapters.errors import AdapterError
from motet_adapters.image import Image
from torch import Tensor
from transformers import AutoTokenizer

from motet.cli.adapter_files import AdapterFiles
from motet.cli.progress_bar import progress_bar
from motet.cli.terminal import results, say
from motet.demo.training import plain_model
from motet.engine.base import QuantizedBase, open_base
from motet.engine.merging import merge
from motet.errors import MotetError
from motet.settings import Settings

_TENANT = _NAME = "merge"
_DEMO = "demo"


class _OnOriginals(QuantizedBase):
    """The base as it was before it was quantised. Raises MotetError where that cannot be had."""

    def weight(self, module: str) -> Tensor:
        weight = self.original(module)
        if weight is None:
            raise MotetError(
                f"The weights of {self.name} from before it was quantised cannot be had. Merge "
                "onto the quantised ones: leave --original out."
            )
        return weight


def run(source: str, files: AdapterFiles, out: Path, *, original: bool, settings: Settings) -> None:
    """Writes a plain transformers checkpoint to `out`; when it raises MotetError, nothing."""
    if out.exists() and any(out.iterdir()):
        raise MotetError(f"{out} is not empty; give a new directory.")
    with progress_bar("Opening the base") as progress:
        base = open_base(
            None if source == _DEMO else source,
            cache_dir=settings.data_dir,
            double_quant=settings.double_quant,
            progress=progress,
        )
    if original:
        base = _OnOriginals(**vars(replace(base)))
    with tempfile.TemporaryDirectory(prefix="motet-merge-") as scratch:
        image = _lowered(Path(scratch), base, files, settings)
        model = plain_model(base, torch.float32, attn_implementation="eager")
        merge(model, image.views(image.buffer))
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(base.directory).save_pretrained(out)
    say(results(), f"Wrote {base.name} with the adapter merged, in bfloat16, to {out}.")


def _lowered(root: Path, base: QuantizedBase, files: AdapterFiles, settings: Settings) -> Image:
    """The adapter's image in float32, made in a store that is thrown away."""
    store = AdapterStore(
        root,
        base,
        dtype=torch.float32,
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes, max_rank=settings.max_adapter_rank
        ),
        host_bytes=settings.adapter_host_bytes,
    )
    try:
        with store.stage() as staging:
            files.write_into(staging.write)
            adapter = store.put(_TENANT, _NAME, staging)
        if adapter.invocation_tokens:
            raise MotetError(
                "The adapter is active from its invocation tokens on only (aLoRA): serve it as an "
                "adapter."
            )
        return store.image(adapter.digest)
    except AdapterError as error:
        raise MotetError(error.message, error.code, error.param) from None
    finally:
        store.close()
