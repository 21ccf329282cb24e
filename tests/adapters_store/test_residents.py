"""Who must leave: as few as will do, and nobody when that would not make the room."""

from hypothesis import given, settings
from hypothesis import strategies as st
from motet_adapters.residents import Place, Residents, Slot

SIZE = 100


def add(residents: Residents, name: int, num_bytes: int) -> bool:
    reserved = residents.set_aside(num_bytes)
    if reserved is None:
        return False
    place, _ = reserved
    residents.add(Slot(place.index, place.generation, str(name), {}), place)
    return True


def fits(occupied: list[Place], num_slots: int, num_bytes: int) -> bool:
    """By looking at every start there is."""
    taken = [False] * SIZE
    for place in occupied:
        for position in range(place.region.offset, place.region.end):
            taken[position] = True
    has_room = any(
        not any(taken[start : start + num_bytes]) for start in range(SIZE - num_bytes + 1)
    )
    return has_room and len(occupied) < num_slots


@settings(max_examples=400, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=15),
    pinned=st.lists(st.booleans(), min_size=15, max_size=15),
    used=st.permutations(range(15)),
    num_slots=st.integers(1, 12),
    wanted=st.integers(1, SIZE),
)
def test_evictions_are_possible_and_needed(
    sizes: list[int], pinned: list[bool], used: list[int], num_slots: int, wanted: int
) -> None:
    residents = Residents(SIZE, num_slots)
    for name, size in enumerate(sizes):
        add(residents, name, size)
    for name in used:
        resident = residents.get(str(name))
        if resident is not None:
            residents.pin(resident)
            if not pinned[name]:
                residents.unpin(resident.slot)
    before = {
        str(name): resident
        for name in range(len(sizes))
        if (resident := residents.get(str(name))) is not None
    }
    reserved = residents.set_aside(wanted)
    stayed = [name for name in before if residents.get(name) is not None]
    gone = [name for name in before if residents.get(name) is None]
    held = [before[name].place for name in before if before[name].pins]
    if reserved is None:
        assert not gone
        assert not fits(held, num_slots, wanted)
        return
    place, num_evicted = reserved
    assert num_evicted == len(gone)
    assert all(not before[name].pins for name in gone)
    assert 1 <= place.index <= num_slots
    occupied = [before[name].place for name in stayed]
    assert place.index not in [other.index for other in occupied]
    for other in occupied:
        apart = place.region.end <= other.region.offset or other.region.end <= place.region.offset
        assert apart
    for name in gone:
        assert not fits([*occupied, before[name].place], num_slots, wanted)
    assert residents.used_bytes == wanted + sum(other.region.num_bytes for other in occupied)
