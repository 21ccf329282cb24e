"""Bases: tensors that many adapters share, known by what they are, and once in memory.

A basis is an image of one site, `SITE`, that belongs to no adapter. Like an adapter's image it is
derived data: one that is missing or damaged is made again, of the base or of an adapter's source.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from motet_adapters.families.plan import BasisPlan, Read, SitePlan
from motet_adapters.image import Image, Layout, views_into
from motet_adapters.rounding import require_parts, store_part

SITE = "basis"


class Bases:
    """For one base and one dtype. Thread-safe; one basis is made at a time.

    stored: a basis by its digest, read from where it is kept; None: it is not, or not whole.
    """

    def __init__(
        self,
        fingerprint: str,
        dtype: torch.dtype,
        stored: Callable[[str], Image | None] = lambda _digest: None,
    ) -> None:
        self._fingerprint = fingerprint
        self._dtype = dtype
        self._stored = stored
        self._held: WeakValueDictionary[str, Image] = WeakValueDictionary()
        self._lock = threading.Lock()

    def find(self, digest: str) -> Image | None:
        """From memory, where anybody still has it, or from where it is kept."""
        with self._lock:
            return self._find(digest)

    def make(self, plan: BasisPlan, read: Read) -> Image:
        """The basis of a plan: found, if its recipe is known, or made. Raises AdapterRefused."""
        with self._lock:
            digest = None if plan.recipe is None else self._digest(plan, plan.recipe.encode())
            found = None if digest is None else self._find(digest)
            if found is not None:
                return found
            layout = basis_layout(plan, self._dtype)
            buffer = _filled(plan, layout, plan.make(read))
            if digest is None:
                digest = self._digest(plan, hashlib.sha256(buffer.numpy().data).digest())
            # A second one of the same content would be a second copy in memory.
            found = self._find(digest) if plan.recipe is None else None
            return found or self._hold(Image(digest, self._dtype, buffer, layout.entries))

    def _find(self, digest: str) -> Image | None:
        held = self._held.get(digest)
        if held is None:
            held = self._stored(digest)
            if held is not None:
                self._hold(held)
        return held

    def _hold(self, basis: Image) -> Image:
        self._held[basis.digest] = basis
        return basis

    def _digest(self, plan: BasisPlan, identity: bytes) -> str:
        parts = {name: [list(spec.shape), str(spec.dtype)] for name, spec in plan.parts.items()}
        whole = hashlib.sha256(json.dumps([self._fingerprint, str(self._dtype), parts]).encode())
        whole.update(b"\0" if plan.recipe is None else b"\1")
        whole.update(identity)
        return whole.hexdigest()


def basis_layout(plan: BasisPlan, dtype: torch.dtype) -> Layout:
    return Layout.of((SitePlan(SITE, {}, plan.parts, plan.make),), dtype)


def _filled(plan: BasisPlan, layout: Layout, parts: Mapping[str, Tensor]) -> Tensor:
    require_parts(SITE, plan.parts, parts)
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    for name, view in views_into(buffer, layout.entries)[SITE].tensors.items():
        store_part(view, parts[name], name, "the basis")
    return buffer
