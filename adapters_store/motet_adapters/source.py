"""The uploaded files, byte for byte, and their identity."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from motet_adapters.base_weights import BaseWeights
from motet_adapters.bases import Bases
from motet_adapters.config import read_config
from motet_adapters.families import AdapterPlan, plan_upload
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from motet_adapters.image import Image
from motet_adapters.limits import Limits
from motet_adapters.lower import Pause, lay_out, lower, no_pause
from motet_adapters.matching import require_match
from motet_adapters.safetensors_file import SafetensorsFile

_CHUNK_BYTES = 1 << 20

Pace = Callable[[int], None]
"""Told of each chunk that was read; may wait, to spare the disk."""


def at_once(_num_bytes: int) -> None:
    """No waiting."""


def digest_of(config: bytes, weights_sha256: bytes) -> str:
    """The identity of a source, 64 hex digits.

    SHA-256 over the length-prefixed config and the SHA-256 of the weights, so that both can be
    hashed while they arrive, in either order.
    """
    whole = hashlib.sha256(len(config).to_bytes(8, "little"))
    whole.update(config)
    whole.update(weights_sha256)
    return whole.hexdigest()


@dataclass(frozen=True)
class Lowered:
    """A source that passed every check, and its image."""

    plan: AdapterPlan
    image: Image
    num_parameters: int
    warnings: tuple[str, ...] = ()  # sentences for the uploader
    lossy_errors: Mapping[str, float] = field(default_factory=dict)  # by path, relative


@dataclass(frozen=True)
class Hashes:
    """What all bytes of a source come to."""

    digest: str
    weights_sha256: str  # 64 hex digits
    weights_bytes: int


@dataclass(frozen=True)
class Source:
    """A directory that holds the two files, here or in staging."""

    directory: Path
    digest: str

    @property
    def config_path(self) -> Path:
        return self.directory / CONFIG_FILE

    @property
    def weights_path(self) -> Path:
        return self.directory / WEIGHTS_FILE

    def num_bytes(self) -> int | None:
        """Of both files together; None where one is missing. Reads neither."""
        try:
            return self.config_path.stat().st_size + self.weights_path.stat().st_size
        except FileNotFoundError:
            return None

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Differs from an earlier one when the files were replaced in between."""
        found = [path.stat() for path in (self.config_path, self.weights_path) if path.exists()]
        return tuple((file.st_ino, file.st_mtime_ns) for file in found)

    def hashes(self, pace: Pace = at_once) -> Hashes | None:
        """Of the files as they are; None where one is missing. Reads all of them, and calls
        `pace` with the number of bytes after each chunk."""
        weights, num_bytes = hashlib.sha256(), 0
        try:
            with self.weights_path.open("rb", buffering=0) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    weights.update(chunk)
                    num_bytes += len(chunk)
                    pace(len(chunk))
            digest = digest_of(self.config_path.read_bytes(), weights.digest())
        except FileNotFoundError:
            return None
        return Hashes(digest, weights.hexdigest(), num_bytes)

    def is_intact(self) -> bool:
        """Whether the files are there and still hash to the digest. Reads all of them."""
        found = self.hashes()
        return found is not None and found.digest == self.digest

    def lower(
        self,
        base: BaseWeights,
        dtype: torch.dtype,
        limits: Limits,
        max_image_bytes: int | None,
        bases: Bases | None = None,
        pause: Pause = no_pause,
    ) -> Lowered:
        """Every check there is, then the image. Raises AdapterRefused, AdapterTooLarge.

        bases: where those that are known already are found; None: nowhere. pause: as for `lower`.
        """
        fields = read_config(self.config_path.read_bytes())
        file = SafetensorsFile.open(self.weights_path, limits)
        plan = plan_upload(fields, file.tensors, base, limits)
        require_match(plan, file.tensors, limits)
        layout = lay_out(plan, dtype, max_image_bytes)
        known = bases or Bases(base.fingerprint, dtype)
        image, warnings, lost = lower(self.digest, file, plan, layout, base, dtype, known, pause)
        num_parameters = sum(
            tensor.num_bytes // tensor.dtype.itemsize
            for name, tensor in file.tensors.items()
            if name not in plan.ignored and name not in plan.copies
        )
        return Lowered(plan, image, num_parameters, warnings, lost)
