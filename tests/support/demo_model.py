"""The demo base, fetched and quantised by the product's own code, once for all test runs."""

from pathlib import Path

from motet.engine.base import QuantizedBase, open_base

CACHE_DIR = Path(__file__).resolve().parents[2] / ".cache"
"""Ignored by git; hand it to a server under test as its cache so that it does not build again."""


def demo_base() -> QuantizedBase:
    """The opened demo base. The first call on a machine needs a package index."""
    return open_base(None, cache_dir=CACHE_DIR)
