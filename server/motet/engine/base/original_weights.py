"""The linears of a base as they were before they were quantised."""

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import bitsandbytes
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from motet.engine.base.progress import silent
from motet.engine.base.saving import sync
from motet.engine.base.source import Source
from motet.engine.base.tensor_file import TensorFile
from motet.errors import UnsupportedModel

log = logging.getLogger(__name__)


class OriginalWeights:
    """Some families are defined by the weight they were trained beside (PiSSA, SVF), not by its NF4
    form. Few adapters need it, so it is read again from the source when it is first asked for: one
    tensor at a time where the source allows it, else all at once into `file`, which is kept.

    Thread-safe.
    """

    def __init__(self, source: Source, identity: str, file: Path, paths: Iterable[str]) -> None:
        """identity: of the source when the base was quantised. file: where to keep what was read.
        paths: of the linears."""
        self._source = source
        self._identity = identity
        self._file = file
        self._paths = frozenset(paths)
        self._lock = threading.Lock()
        self._kept: TensorFile | None = None
        self._is_gone = False

    def weight(self, path: str) -> Tensor | None:
        """[N, K] float32; None where the source has changed, is gone, or was quantised already."""
        if path not in self._paths:
            raise KeyError(path)
        with self._lock:
            tensor = self._find(path)
        return None if tensor is None else tensor.float()

    def _find(self, path: str) -> Tensor | None:
        tensor_name = f"{path}.weight"
        if self._kept is None and self._file.is_file():
            self._kept = _opened(self._file)
        if self._kept is None and not self._is_gone:
            try:
                if self._source.identity() != self._identity:
                    raise UnsupportedModel("its files have changed since it was quantised")
                tensor = self._source.tensor(tensor_name)
                if tensor is not None:
                    # As for quantising: weights are bf16 whatever they are stored in.
                    return tensor.to(torch.bfloat16)
                self._keep_all()
            except (UnsupportedModel, OSError) as error:
                name = self._source.name
                log.warning("the original weights of %s cannot be had: %s", name, error)
                self._is_gone = True
        return self._kept.get(tensor_name) if self._kept is not None else None

    def _keep_all(self) -> None:
        """Read the whole checkpoint once and keep its linears on disk. Raises UnsupportedModel."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".original-", dir=self._file.parent))
        try:
            (work / "scratch").mkdir()
            model = self._source.load(work / "scratch", silent).model
            linears = {path: model.get_submodule(path) for path in self._paths}
            weights = {
                f"{path}.weight": linear.weight.detach().to(torch.bfloat16).contiguous()
                for path, linear in linears.items()
                if type(linear) is nn.Linear and not _is_quantized(linear)
            }
            save_file(weights, work / "original.safetensors")
            sync(work / "original.safetensors")
            (work / "original.safetensors").replace(self._file)
            sync(self._file.parent)
        finally:
            shutil.rmtree(work)
        self._kept = _opened(self._file)


def _is_quantized(linear: nn.Linear) -> bool:
    return isinstance(linear.weight, bitsandbytes.nn.Params4bit)


def _opened(file: Path) -> TensorFile | None:
    try:
        return TensorFile(file)
    except SafetensorError:
        log.warning("%s is damaged and is made again", file.name)
        file.unlink(missing_ok=True)
        return None
