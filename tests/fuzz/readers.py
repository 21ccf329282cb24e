"""What is fuzzed: the two readers that see an upload's bytes first, and the matching behind them.

Each function takes bytes from anywhere and returns whether they were accepted. Every exception but
AdapterRefused, which it swallows, is a defect.
"""

import os
from collections.abc import Callable
from pathlib import Path

from motet_adapters.config import read_config
from motet_adapters.errors import AdapterRefused
from motet_adapters.families import plan_upload
from motet_adapters.limits import Limits
from motet_adapters.matching import require_match
from motet_adapters.safetensors_file import SafetensorsFile

from tests.support.adapter_files import random_adapter
from tests.support.base_weights import RandomBase
from tests.support.hostile_files import safetensors, taken_apart

LIMITS = Limits()


class Readers:
    """The readers behind one small base. directory: for the files that are read; in memory, to
    be quick."""

    def __init__(self, directory: Path) -> None:
        self._base = RandomBase.llama(layers=2, hidden=4, kv=2, ffn=6)
        self._path = directory / f"fuzzed-{os.getpid()}"
        files = random_adapter(self._base, rank=1)
        self._fields = read_config(files.config_bytes)
        self._path.write_bytes(files.weights_bytes)
        self._tensors = SafetensorsFile.open(self._path, LIMITS).tensors
        self._data = taken_apart(files.weights_bytes)[1]

    def read_header(self, data: bytes) -> bool:
        """As the weights file of an upload whose config is valid."""
        self._path.write_bytes(data)
        try:
            file = SafetensorsFile.open(self._path, LIMITS)
            plan = plan_upload(self._fields, file.tensors, self._base, LIMITS)
            require_match(plan, file.tensors, LIMITS)
            for name, tensor in file.tensors.items():
                assert file.read(name).shape == tensor.shape
        except AdapterRefused as error:
            _require_presentable(error)
            return False
        return True

    def read_header_text(self, text: bytes) -> bool:
        """As the header's JSON alone, of the right length and with the data behind it."""
        return self.read_header(safetensors(text, self._data))

    def read_config(self, data: bytes) -> bool:
        """As the config of an upload whose weights file is valid."""
        try:
            plan = plan_upload(read_config(data), self._tensors, self._base, LIMITS)
            require_match(plan, self._tensors, LIMITS)
            for site in plan.sites:
                assert site.parts
        except AdapterRefused as error:
            _require_presentable(error)
            return False
        return True

    def by_name(self) -> dict[str, Callable[[bytes], bool]]:
        return {
            "header": self.read_header,
            "header-text": self.read_header_text,
            "config": self.read_config,
        }


def _require_presentable(error: AdapterRefused) -> None:
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(error.message) < 4000, error.message
