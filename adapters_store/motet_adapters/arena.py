"""The device tier: a byte budget of resident adapters, with pins, loads off the engine thread.

Threads. `acquire`, `release`, `departed` and `close` belong to the engine thread, which alone
decides what is evicted for another. Loader threads fetch an image, copy it into a region set aside
for it, and publish the slot when the copy is complete. `stats` and `drop` may be called from
anywhere.

The first load of a digest takes two trips to a loader thread, because its size is learnt from its
image; later ones take one. Between the trips nothing is reserved, so an abandoned load costs
nobody their place.

Bases that adapters share lie in regions of the same tensor: brought by the first of them to load,
used by the others, given back with the last.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from motet_adapters.device_copy import DeviceCopy
from motet_adapters.errors import AdapterError, AdapterLoadFailed
from motet_adapters.families.plan import Basis as BasisTensor
from motet_adapters.free_list import Region
from motet_adapters.image import Image, Views, aligned
from motet_adapters.residents import Place, Residents, Slot

_REGION_ALIGNMENT = 256  # bytes: the coarsest alignment any device asks of a tensor
_NUM_LOADERS = 2  # one reads a disk while the other copies; more only contend
_NO_BASIS = "What the adapter shares with others could not be loaded; asking again loads it again."
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Sizes(NamedTuple):
    """Bytes on the device, aligned."""

    own: int
    bases: Mapping[str, int]  # by digest

    @classmethod
    def of(cls, image: Image) -> "Sizes":
        bases = {name: basis.num_bytes for name, basis in image.shared.items()}
        return cls(
            aligned(image.num_bytes, _REGION_ALIGNMENT),
            {name: aligned(size, _REGION_ALIGNMENT) for name, size in bases.items()},
        )

    @property
    def total(self) -> int:
        return self.own + sum(self.bases.values())


@dataclass(frozen=True)
class ArenaStats:
    """A snapshot: counts of adapters, sizes in bytes, totals since construction."""

    resident: int  # ready to run
    loading: int  # wanted and on their way
    pinned: int  # resident and in use
    used_bytes: int
    basis_bytes: int  # of those, what adapters share
    budget_bytes: int
    num_loads: int
    num_failures: int
    num_evictions: int
    num_hits: int  # acquires of an adapter that was here already


class Arena:
    """Adapters resident on `device`, in one flat tensor of `num_bytes` and slots 1..num_slots.

    `images` is called on loader threads; `on_ready`, if given, is called there whenever a load
    ends, well or badly, and must neither block nor raise.
    """

    def __init__(
        self,
        images: Callable[[str], Image],
        *,
        num_bytes: int,
        num_slots: int,
        device: torch.device,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        if num_slots < 1 or num_bytes < _REGION_ALIGNMENT:
            raise ValueError(f"an arena needs a slot and at least {_REGION_ALIGNMENT} bytes")
        self._images = images
        self._on_ready = on_ready
        self._budget_bytes = num_bytes
        # Zeroed, so that no byte of whoever used this memory before can ever be read.
        self._buffer = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._residents = Residents(num_bytes // _REGION_ALIGNMENT * _REGION_ALIGNMENT, num_slots)
        self._sizes: dict[str, Sizes] = {}
        self._bases: dict[str, Future[Views]] = {}
        self._loading: set[str] = set()
        self._dropped: set[str] = set()  # of those that are loading
        self._failures: dict[str, str] = {}
        self._num_loads = self._num_failures = self._num_evictions = self._num_hits = 0
        self._lock = threading.Lock()
        self._loaders = ThreadPoolExecutor(_NUM_LOADERS, thread_name_prefix="motet-arena")

    def acquire(self, digest: str) -> Slot | None:
        """The digest's slot, pinned once more; None when it isn't resident yet: not this step.

        A None starts a load where there is room, evicting the least recently used of the unpinned
        if that makes the room. Ask again on a later step.
        Raises AdapterLoadFailed once for each load that failed; asking again retries.
        """
        with self._lock:
            resident = self._residents.get(digest)
            if resident is not None:
                self._num_hits += resident.was_acquired
                self._residents.pin(resident)
                return resident.slot
            if digest in self._failures:
                raise AdapterLoadFailed(digest, self._failures.pop(digest))
            self._dropped.discard(digest)
            if digest not in self._loading:
                self._start(digest)
            return None

    def release(self, slot: Slot) -> None:
        """Undo one `acquire`. Raises ValueError when there is none to undo."""
        with self._lock:
            self._residents.unpin(slot)

    def departed(self) -> frozenset[str]:
        """Digests that have left the device since this was last asked, even if they are back: what
        was made of them there is to go too."""
        with self._lock:
            return self._residents.departed()

    def drop(self, digest: str) -> None:
        """The adapter was deleted and nobody leases it: its room is free now, or as soon as the
        last step that runs it, or the load on its way, has ended. Asked for again, it is loaded
        again."""
        with self._lock:
            self._residents.drop(digest)
            self._failures.pop(digest, None)
            self._sizes.pop(digest, None)
            if digest in self._loading:
                self._dropped.add(digest)

    def stats(self) -> ArenaStats:
        with self._lock:
            return ArenaStats(
                resident=len(self._residents),
                loading=len(self._loading),
                pinned=self._residents.num_pinned,
                used_bytes=self._residents.used_bytes,
                basis_bytes=self._residents.basis_bytes,
                budget_bytes=self._budget_bytes,
                num_loads=self._num_loads,
                num_failures=self._num_failures,
                num_evictions=self._num_evictions,
                num_hits=self._num_hits,
            )

    def close(self) -> None:
        """Drop the loads that have not begun and wait for those that have."""
        self._loaders.shutdown(wait=True, cancel_futures=True)

    def _start(self, digest: str) -> None:
        size = self._sizes.get(digest)
        if size is None:
            self._loading.add(digest)
            self._loaders.submit(self._measure, digest)
            return
        if size.total > self._budget_bytes:
            raise AdapterLoadFailed(digest, _too_large(size, self._budget_bytes))
        reserved = self._residents.set_aside(size.own, size.bases)
        if reserved is None:
            return
        place, num_evicted = reserved
        self._num_evictions += num_evicted
        self._bases = {
            name: views for name, views in self._bases.items() if self._residents.has_basis(name)
        }
        self._bases |= {name: Future() for name in place.new_bases}
        bases = {name: self._bases[name] for name in place.bases}
        copies = {name: self._copy_into(region) for name, region in place.new_bases.items()}
        self._loading.add(digest)
        self._loaders.submit(
            self._load, digest, place, self._copy_into(place.region), bases, copies
        )

    def _copy_into(self, region: Region) -> DeviceCopy:
        return DeviceCopy.into(self._buffer[region.offset : region.end])

    def _measure(self, digest: str) -> None:
        image = self._attempt(digest, lambda: self._images(digest))
        with self._lock:
            self._loading.discard(digest)
            if self._was_dropped(digest):
                self._failures.pop(digest, None)
            elif image is not None:
                self._sizes[digest] = Sizes.of(image)
        self._on_ready()

    def _load(
        self,
        digest: str,
        place: Place,
        copy: DeviceCopy,
        bases: Mapping[str, "Future[Views]"],
        copies: Mapping[str, DeviceCopy],
    ) -> None:
        slot = self._attempt(digest, lambda: self._copied(digest, place, copy, bases, copies))
        for name in copies:
            # Whoever else waits for a basis that did not come has failed with this one.
            if not bases[name].done():
                bases[name].set_exception(AdapterLoadFailed(digest, _NO_BASIS))
        with self._lock:
            self._loading.discard(digest)
            is_dropped = self._was_dropped(digest)
            if is_dropped:
                self._failures.pop(digest, None)
            if slot is None or is_dropped:
                self._residents.give_back(place)
            else:
                self._residents.add(slot, place)
                self._num_loads += 1
        self._on_ready()

    def _was_dropped(self, digest: str) -> bool:
        """Whether nobody has asked for it since it was deleted. Asked once."""
        was_dropped = digest in self._dropped
        self._dropped.discard(digest)
        return was_dropped

    def _copied(
        self,
        digest: str,
        place: Place,
        copy: DeviceCopy,
        bases: Mapping[str, "Future[Views]"],
        copies: Mapping[str, DeviceCopy],
    ) -> Slot:
        """copies: of those of the bases that this load has to bring."""
        image = self._images(digest)
        for name, basis_copy in copies.items():
            basis = image.shared[name]
            bases[name].set_result(basis.views(basis_copy.run(basis.buffer)))
        buffer = copy.run(image.buffer)
        # Others' loads were begun before this one, so that waiting for theirs ends.
        found = {name: future.result() for name, future in bases.items()}

        def find_basis(basis: BasisTensor) -> Tensor:
            (site,) = found[basis[0]].values()
            return site.tensors[basis[1]]

        views = image.views(buffer, find_basis)
        return Slot(place.index, place.generation, digest, views)

    def _attempt(self, digest: str, work: Callable[[], _T]) -> _T | None:
        try:
            return work()
        except AdapterError as error:
            message = error.message
        except Exception:
            # A loader thread has nobody to raise to: the failure goes to the next `acquire`.
            _log.exception("loading adapter %s failed", digest)
            message = "The adapter could not be loaded; the server's log says why."
        with self._lock:
            self._failures[digest] = message
            self._sizes.pop(digest, None)
            self._num_failures += 1
        return None


def _too_large(size: Sizes, budget: int) -> str:
    shared = size.total - size.own
    needed = f"{size.own} bytes"
    if shared:
        needed += f", and {shared} bytes for what it shares with others of its kind,"
    return (
        f"The adapter needs {needed} on the device, but the budget for adapters is {budget} "
        "bytes. Train it with a smaller rank, or give the server a larger budget."
    )
