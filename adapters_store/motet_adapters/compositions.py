"""The weighted sums of adapters that requests have asked for."""

import hashlib
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from motet_adapters.adapter import Adapter
from motet_adapters.composition import Member, compose
from motet_adapters.errors import AdapterRefused
from motet_adapters.image import Image
from motet_adapters.index import Lease

MAX_MEMBERS = 8
MAX_WEIGHT = 100.0
_KIND = "composition"
_MOST_KNOWN = 4096  # compositions nobody runs on; they may still be on the device


@dataclass(frozen=True)
class _Parts:
    """What a composition's digest stands for."""

    names: tuple[str, ...]
    digests: tuple[str, ...]
    weights: tuple[float, ...]


class Compositions:
    """Each has a digest of its own, made of its members' and their weights, and is an adapter like
    any other to the engine: it has a slot, and rows prove that they ran on it. Thread-safe.
    """

    def __init__(self, image: Callable[[str], Image]) -> None:
        """image: finds a stored adapter's."""
        self._image = image
        self._known: OrderedDict[str, _Parts] = OrderedDict()
        self._held = Counter[str]()
        self._lock = threading.Lock()

    def hold(self, members: Sequence[tuple[Lease, float]]) -> Lease:
        """A lease on the sum, which ends the members' when it ends.

        Makes the sum once to see that it can be, unless it is known: not for an event loop. Raises
        AdapterRefused for weights or adapters that cannot be added, and what making the members'
        images raises; the members' leases stay the caller's then.
        """
        adapters = [lease.adapter for lease, _ in members]
        parts = _Parts(
            tuple(adapter.name for adapter in adapters),
            tuple(adapter.digest for adapter in adapters),
            tuple(weight for _, weight in members),
        )
        _check(parts, adapters)
        digest = _digest(parts)
        with self._lock:
            is_known = digest in self._known
        if not is_known:
            self._made(digest, parts)
        with self._lock:
            self._known[digest] = parts
            self._known.move_to_end(digest)
            self._held[digest] += 1
            self._forget_oldest()

        def release(_digest: str) -> None:
            with self._lock:
                self._held[digest] -= 1
                if not self._held[digest]:
                    del self._held[digest]
            for lease, _ in members:
                lease.release()

        return Lease(_adapter(digest, parts, adapters), release)

    def find(self, digest: str) -> Image | None:
        """The sum's image, made from its members'; None for a digest that is no composition's.

        Raises what making the members' images raises, AdapterRefused where they cannot be added.
        """
        with self._lock:
            parts = self._known.get(digest)
        return None if parts is None else self._made(digest, parts)

    def of_member(self, digest: str) -> list[str]:
        """Digests of the compositions that have an adapter in them."""
        with self._lock:
            return [known for known, parts in self._known.items() if digest in parts.digests]

    def _made(self, digest: str, parts: _Parts) -> Image:
        members = zip(parts.names, parts.digests, parts.weights, strict=True)
        return compose(
            digest, [Member(name, self._image(each), weight) for name, each, weight in members]
        )

    def _forget_oldest(self) -> None:
        for digest in tuple(self._known):
            if len(self._known) <= _MOST_KNOWN:
                break
            if digest not in self._held:
                del self._known[digest]


def _check(parts: _Parts, adapters: Sequence[Adapter]) -> None:
    if not 1 <= len(adapters) <= MAX_MEMBERS:
        raise AdapterRefused(f"adapters must name 1 to {MAX_MEMBERS} adapters.", "adapters")
    if len(set(parts.names)) != len(parts.names):
        raise AdapterRefused("adapters names one adapter twice; add their weights.", "adapters")
    for weight in parts.weights:
        if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
            raise AdapterRefused(
                f"A weight must be a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}.", "adapters"
            )
    for adapter in adapters:
        if adapter.num_virtual_tokens or adapter.invocation_tokens:
            raise AdapterRefused(
                f"Adapter {adapter.name} cannot be combined with others: it is "
                f"{adapter.kind}, which is more than a change of the weights. Name it alone.",
                "adapters",
            )


def _digest(parts: _Parts) -> str:
    whole = hashlib.sha256(b"motet composition")
    for digest, weight in zip(parts.digests, parts.weights, strict=True):
        whole.update(f"\0{digest}\0{float(weight).hex()}".encode())
    return whole.hexdigest()


def _adapter(digest: str, parts: _Parts, adapters: Sequence[Adapter]) -> Adapter:
    return Adapter(
        tenant=adapters[0].tenant,
        name="+".join(parts.names),
        digest=digest,
        kind=_KIND,
        ranks=tuple(sorted({rank for adapter in adapters for rank in adapter.ranks})),
        matched={},
        num_parameters=sum(adapter.num_parameters for adapter in adapters),
        source_bytes=sum(adapter.source_bytes for adapter in adapters),
        image_bytes=sum(adapter.image_bytes for adapter in adapters),
        created=max(adapter.created for adapter in adapters),
    )
