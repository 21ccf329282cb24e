"""Every limit an upload is held to, checked before anything of that size is allocated."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes. The number of tensors needs no limit here: the base's modules bound it."""

    max_upload_bytes: int = 1 << 30
    max_config_bytes: int = 256 << 10
    max_header_bytes: int = 1 << 20  # of the safetensors file
    max_rank: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")
