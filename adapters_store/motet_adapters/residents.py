"""Who is resident in the arena, where, and who would have to leave to let another in."""

from dataclasses import dataclass

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
        self._departed: set[str] = set()
        self._tick = 0

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def num_pinned(self) -> int:
        return sum(1 for resident in self._by_digest.values() if resident.pins)

    @property
    def used_bytes(self) -> int:
        return self._num_bytes - self._free.num_bytes

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

    def set_aside(self, num_bytes: int) -> tuple[Place, int] | None:
        """A place for an adapter of that size and how many were evicted for it.

        None, with nobody evicted, when no eviction of unpinned adapters could make the room.
        """
        leaving = self._who_must_leave(num_bytes)
        if leaving is None:
            return None
        for resident in leaving:
            self._evict(resident)
        region = self._free.take(num_bytes)
        if region is None:
            raise AssertionError("evictions were chosen to make this room")
        index = self._free_indices.pop()
        self._generations[index] += 1
        return Place(index, self._generations[index], region), len(leaving)

    def give_back(self, place: Place) -> None:
        self._free.give(place.region)
        self._free_indices.append(place.index)

    def _evict(self, resident: Resident) -> None:
        del self._by_digest[resident.slot.digest]
        self._departed.add(resident.slot.digest)
        self.give_back(resident.place)

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
