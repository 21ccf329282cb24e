"""Who is resident in the arena, where, and who would have to leave to let another in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motet_adapters.free_list import FreeList, Region
from motet_adapters.image import Views


@dataclass(frozen=True)
class Slot:
    """A resident adapter. Equal index and generation mean the very same residence."""

    index: int  # >= 1; slot 0 is the base
    generation: int  # grows each time the index is used again
    digest: str
    views: Views  # as `Image.views`, on the device


@dataclass(frozen=True)
class Place:
    """Room set aside for one adapter."""

    index: int
    generation: int
    region: Region
    bases: frozenset[str] = frozenset()
    """Digests of the bases it uses."""
    new_bases: Mapping[str, Region] = field(default_factory=dict)
    """Where those of them are to be put that were not here yet."""


@dataclass
class Basis:
    """Room of tensors that several adapters share, freed with the last of them."""

    region: Region
    users: int = 0  # places


@dataclass
class Resident:
    """A slot, where its bytes are, and how it is used. Evictable when `pins` is zero."""

    slot: Slot
    place: Place
    pins: int = 0
    last_used: int = 0  # a tick of `Residents`, not a time
    was_acquired: bool = False
    is_leaving: bool = False  # nobody will ask for it again: evicted with its last pin


class Residents:
    """Slots 1..num_slots over a range of bytes. Not thread-safe: the arena's lock guards it."""

    def __init__(self, num_bytes: int, num_slots: int) -> None:
        self._free = FreeList(num_bytes)
        self._num_bytes = num_bytes
        self._free_indices = list(range(num_slots, 0, -1))
        self._generations = [0] * (num_slots + 1)
        self._by_digest: dict[str, Resident] = {}
        self._bases: dict[str, Basis] = {}
        self._departed: set[str] = set()
        self._tick = 0

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def num_pinned(self) -> int:
        return sum(1 for resident in self._by_digest.values() if resident.pins)

    @property
    def used_bytes(self) -> int:
        """Bases and what is set aside included."""
        return self._num_bytes - self._free.num_bytes

    @property
    def basis_bytes(self) -> int:
        return sum(basis.region.num_bytes for basis in self._bases.values())

    def has_basis(self, digest: str) -> bool:
        return digest in self._bases

    def get(self, digest: str) -> Resident | None:
        return self._by_digest.get(digest)

    def departed(self) -> frozenset[str]:
        """Digests that were evicted since this was last asked, even if they are back."""
        departed, self._departed = frozenset(self._departed), set()
        return departed

    def pin(self, resident: Resident) -> None:
        resident.pins += 1
        resident.was_acquired = True
        self._touch(resident)

    def drop(self, digest: str) -> None:
        """Evict it now, or when its last pin goes. No change where it is not resident."""
        resident = self._by_digest.get(digest)
        if resident is None:
            return
        resident.is_leaving = True
        if not resident.pins:
            self._evict(resident)

    def unpin(self, slot: Slot) -> None:
        """Raises ValueError for a slot that is not resident, or not pinned."""
        resident = self._by_digest.get(slot.digest)
        if resident is None or resident.slot is not slot or not resident.pins:
            raise ValueError(f"slot {slot.index} is released more often than it was acquired")
        resident.pins -= 1
        if resident.is_leaving and not resident.pins:
            self._evict(resident)
            return
        self._touch(resident)

    def add(self, slot: Slot, place: Place) -> None:
        resident = Resident(slot, place)
        self._by_digest[slot.digest] = resident
        self._touch(resident)

    def set_aside(
        self, num_bytes: int, bases: Mapping[str, int] | None = None
    ) -> tuple[Place, int] | None:
        """A place for an adapter of that size and how many were evicted for it.

        bases: sizes of the bases it uses, by digest; those that are here already need no room.
        None, with nobody evicted, when no eviction of unpinned adapters could make the room.
        """
        bases = bases or {}
        here = [self._bases[digest] for digest in bases if digest in self._bases]
        missing = {digest: size for digest, size in bases.items() if digest not in self._bases}
        for basis in here:  # so that no eviction frees it
            basis.users += 1
        leaving = self._who_must_leave(num_bytes) if not missing else None
        if leaving is None and self._bases.keys() | missing:
            leaving = self._oldest((num_bytes, *missing.values()))
        if leaving is None:
            for basis in here:
                basis.users -= 1
            return None
        for resident in leaving:
            self._evict(resident)
        region, *regions = self._take((num_bytes, *missing.values()))
        new_bases = dict(zip(missing, regions, strict=True))
        self._bases |= {digest: Basis(room, 1) for digest, room in new_bases.items()}
        index = self._free_indices.pop()
        self._generations[index] += 1
        place = Place(index, self._generations[index], region, frozenset(bases), new_bases)
        return place, len(leaving)

    def give_back(self, place: Place) -> None:
        self._free.give(place.region)
        self._free_indices.append(place.index)
        for digest in place.bases:
            basis = self._bases[digest]
            basis.users -= 1
            if not basis.users:
                del self._bases[digest]
                self._free.give(basis.region)

    def _evict(self, resident: Resident) -> None:
        del self._by_digest[resident.slot.digest]
        self._departed.add(resident.slot.digest)
        self.give_back(resident.place)

    def _take(self, sizes: Sequence[int]) -> list[Region]:
        """Regions of these sizes, in their order."""
        regions = _taken(self._free, sizes)
        if regions is None:
            raise AssertionError("evictions were chosen to make this room")
        return regions

    def _oldest(self, sizes: Sequence[int]) -> list[Resident] | None:
        """Those least recently used that have to leave for all of the sizes to find room, with
        the bases that nobody else uses."""
        free = self._free.copy()
        users = {digest: basis.users for digest, basis in self._bases.items()}
        unpinned = [resident for resident in self._by_digest.values() if not resident.pins]
        unpinned.sort(key=lambda resident: resident.last_used)
        for count in range(len(unpinned) + 1):
            if count:
                place = unpinned[count - 1].place
                free.give(place.region)
                for digest in place.bases:
                    users[digest] -= 1
                    if not users[digest]:
                        free.give(self._bases[digest].region)
            has_room = free.num_bytes >= sum(sizes) and _taken(free.copy(), sizes) is not None
            if has_room and (count or self._free_indices):
                return unpinned[:count]
        return None

    def _touch(self, resident: Resident) -> None:
        self._tick += 1
        resident.last_used = self._tick

    def _who_must_leave(self, num_bytes: int) -> list[Resident] | None:
        """Least recently used first, and nobody whose leaving would not help."""
        unpinned = [resident for resident in self._by_digest.values() if not resident.pins]
        unpinned.sort(key=lambda resident: resident.last_used)
        if self._free.fits(num_bytes):
            if self._free_indices:
                return []
            return unpinned[:1] or None
        free = self._free.copy()
        for count, resident in enumerate(unpinned, start=1):
            hole = free.give(resident.place.region)
            if hole.num_bytes >= num_bytes:
                return _needed(unpinned[:count], hole, num_bytes)
        return None


def _taken(free: FreeList, sizes: Sequence[int]) -> list[Region] | None:
    """A region for each size, in their order; the largest is placed first. None: no room."""
    found: dict[int, Region] = {}
    for number, size in sorted(enumerate(sizes), key=lambda item: -item[1]):
        region = free.take(size)
        if region is None:
            return None
        found[number] = region
    return [found[number] for number in range(len(sizes))]


def _needed(leaving: list[Resident], hole: Region, num_bytes: int) -> list[Resident]:
    """Those of `leaving` that lie in `hole`, less those at its ends that may stay.

    Of the two at the ends the more recently used is spared first.
    """
    inside = [one for one in leaving if hole.offset <= one.place.region.offset < hole.end]
    inside.sort(key=lambda one: one.place.region.offset)
    start, end = hole.offset, hole.end
    while True:
        spared = [
            one
            for one, room in (
                (inside[0], end - inside[0].place.region.end),
                (inside[-1], inside[-1].place.region.offset - start),
            )
            if room >= num_bytes
        ]
        if not spared:
            return inside
        latest = max(spared, key=lambda one: one.last_used)
        if latest is inside[0]:
            start = latest.place.region.end
        else:
            end = latest.place.region.offset
        inside.remove(latest)
