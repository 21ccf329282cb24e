"""Images with nothing behind them, for tests of the tiers that only move bytes."""

import hashlib

import torch
from motet_adapters.families import PartSpec, SitePlan
from motet_adapters.image import Image, Layout


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def linear_site(
    path: str, rank: int, in_features: int, out_features: int, *, gain: bool = False
) -> SitePlan:
    """LoRA's or DoRA's parts on a linear, with no tensors to make them of."""
    parts = {"a": PartSpec((rank, in_features)), "bt": PartSpec((rank, out_features))}
    if gain:
        parts["gain"] = PartSpec((out_features,))
    return SitePlan(path, {}, parts, lambda _read: {})


def random_image(name: object, *, rank: int = 2, features: int = 16, gain: bool = False) -> Image:
    """An image of two modules whose bytes are a function of `name`."""
    sites = (
        linear_site("layers.0.q_proj", rank, features, features, gain=gain),
        linear_site("layers.0.up_proj", rank, features, 2 * features),
    )
    layout = Layout.of(sites, torch.float32)
    random = torch.Generator().manual_seed(int(digest(name)[:8], 16))
    values = torch.randn(layout.num_bytes // 4, generator=random)
    return Image(digest(name), torch.float32, values.view(torch.uint8), layout.entries)
