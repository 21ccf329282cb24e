"""The directory that the systems share: one base, one set of adapters. Names only, no tensors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Workplace:
    directory: Path
    base: str | None
    """As for `motet serve --base`; None: the demo base."""
    rank: int
    """Of every adapter."""

    @property
    def motet_data(self) -> Path:
        """Data directory of the measured `motet serve`; the quantised base is kept there too."""
        return self.directory / "motet"

    @property
    def model(self) -> Path:
        """The base as a plain transformers directory: bf16, its linears rounded to NF4."""
        return self.directory / "models" / self._name

    @property
    def adapters(self) -> Path:
        return self.directory / "adapters" / f"{self._name}-rank-{self.rank}"

    def adapter(self, name: str) -> Path:
        """What PEFT's `save_pretrained` wrote for one adapter."""
        return self.adapters / name

    def log(self, system: str) -> Path:
        """Where a system's process writes what it has to say."""
        return self.directory / "logs" / f"{system}.log"

    def prepare(self, adapters: Sequence[str]) -> None:
        """Makes what is missing, in a process of its own: whoever measures holds no torch."""
        needed = [self.adapter(name) / file for name in adapters for file in ADAPTER_FILES]
        if all(file.exists() for file in (*needed, self.model / "config.json")):
            return
        print(f"Making the base and {len(adapters)} adapters in {self.directory}", file=sys.stderr)
        command = [sys.executable, str(Path(__file__).with_name("material.py"))]
        command += [str(self.model), str(self.adapters), *adapters, "--rank", str(self.rank)]
        command += ["--cache-dir", str(self.motet_data)]
        if self.base is not None:
            command += ["--base", self.base]
        subprocess.run(command, check=True)

    @property
    def _name(self) -> str:
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.base or "demo").strip("-")
