"""Images with nothing behind them, for tests of the tiers that only move bytes."""

import hashlib

import torch
from motet_adapters.image import Image, Layout, Target


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def random_image(name: object, *, rank: int = 2, features: int = 16, gain: bool = False) -> Image:
    """An image of two modules whose bytes are a function of `name`."""
    targets = {
        "layers.0.q_proj": Target(rank, features, features, gain),
        "layers.0.up_proj": Target(rank, features, 2 * features, False),
    }
    layout = Layout.of(targets.items(), torch.float32)
    random = torch.Generator().manual_seed(int(digest(name)[:8], 16))
    values = torch.randn(layout.num_bytes // 4, generator=random)
    return Image(digest(name), torch.float32, values.view(torch.uint8), layout.entries)
