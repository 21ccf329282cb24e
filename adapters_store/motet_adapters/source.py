"""The uploaded files, byte for byte, and their identity."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config import LoraSettings, parse_config
from motet_adapters.expansion import refuse_expression
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from motet_adapters.image import Image
from motet_adapters.limits import Limits
from motet_adapters.lower import lay_out, lower
from motet_adapters.matching import Match, match
from motet_adapters.safetensors_file import SafetensorsFile

_CHUNK_BYTES = 1 << 20


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

    settings: LoraSettings
    matches: list[Match]
    image: Image
    num_parameters: int


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

    def is_intact(self) -> bool:
        """Whether the files are there and still hash to the digest. Reads all of them."""
        try:
            weights = hashlib.sha256()
            with self.weights_path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    weights.update(chunk)
            return digest_of(self.config_path.read_bytes(), weights.digest()) == self.digest
        except FileNotFoundError:
            return False

    def lower(
        self, base: BaseWeights, dtype: torch.dtype, limits: Limits, max_image_bytes: int | None
    ) -> Lowered:
        """Every check there is, then the image. Raises AdapterRefused, AdapterTooLarge."""
        settings = parse_config(self.config_path.read_bytes(), limits)
        file = SafetensorsFile.open(self.weights_path, limits)
        if settings.targets.is_expression:
            raise refuse_expression(settings.targets, file.tensors, base.modules())
        matches = match(settings, file.tensors, base)
        layout = lay_out(matches, dtype, max_image_bytes)
        image = lower(self.digest, file, matches, layout, base, dtype)
        num_parameters = sum(
            tensor.num_bytes // tensor.dtype.itemsize for tensor in file.tensors.values()
        )
        return Lowered(settings, matches, image, num_parameters)
