"""What a sequence finds computed and leaves for others, on a KV cache that remembers what it holds.

The cache here keeps, for each position, what its keys and values were computed from: which row,
of what shape, on which adapter, from which token. Whatever is shared, copied, evicted, preempted or
cancelled, each row must find before it just what it would have computed itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motet.engine.blocks import BlockPool
from motet.engine.kv_edits import CopyBlock
from motet.engine.request import Request, SamplingParams
from motet.engine.sampler import Sampled, TokenCounts
from motet.engine.scheduler import Plan, Row, Scheduler, StepLimits
from motet.engine.sequence import Sequence
from motet.engine.sharing import PrefixScope
from motet.engine.stops import StopStrings
from motet.engine.virtual_tokens import PREFIX_SITE
from motet_adapters import Adapter, SiteParts, Slot

BLOCK_SIZE = 4
CHUNK_LEN = 6
GRAIN = 12
LIMITS = StepLimits(max_num_seqs=4, max_batch_tokens=16, chunk_len=CHUNK_LEN)
INVOCATION = (7, 8)

PLAIN = Adapter(
    tenant="t",
    name="plain",
    digest="plain",
    kind="lora",
    ranks=(4,),
    matched={"q_proj": 1},
    num_parameters=1,
    source_bytes=1,
    image_bytes=1,
    created=0,
)
ADAPTERS: dict[str, Adapter | None] = {
    "base": None,
    "plain": PLAIN,
    "other": replace(PLAIN, digest="other"),
    "alora": replace(PLAIN, digest="alora", invocation_tokens=INVOCATION),
    "prompt": replace(PLAIN, digest="prompt", num_virtual_tokens=5),
    "long": replace(PLAIN, digest="long", num_virtual_tokens=16),
    "prefix": replace(PLAIN, digest="prefix", num_virtual_tokens=6),
}
STORED = {"prefix"}


class Silent:
    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def sequence(
    arrival: int, prompt: Iterable[int], name: str = "base", max_tokens: int = 4, tenant: str = "t"
) -> Sequence:
    adapter = ADAPTERS[name]
    request = Request(
        id=f"r{arrival}",
        prompt=tuple(prompt),
        params=SamplingParams(max_tokens=max_tokens, temperature=0.0),
        adapter=replace(adapter, tenant=tenant) if adapter else None,
        tenant=tenant,
    )
    return Sequence(
        request=request,
        arrival=arrival,
        deliver=lambda _event: None,
        decoder=Silent(),
        stops=StopStrings(()),
        counts=TokenCounts(request.prompt),
    )


@dataclass
class Slots:
    """Room for all; `leaving` have just been evicted."""

    pins: dict[str, int] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)

    def acquire(self, digest: str) -> Slot:
        self.pins[digest] = self.pins.get(digest, 0) + 1
        stored = {"keys.0": None, "values.0": None} if digest in STORED else {"embeddings": None}
        views = {PREFIX_SITE: SiteParts(stored)}  # type: ignore[arg-type]
        return Slot(1 + sorted(ADAPTERS).index(digest), 0, digest, views)

    def release(self, slot: Slot) -> None:
        self.pins[slot.digest] -= 1

    def departed(self) -> set[str]:
        leaving, self.leaving = self.leaving, set()
        return leaving


@dataclass
class House:
    """A scheduler and a cache that remembers."""

    num_blocks: int = 40
    scope: PrefixScope = "tenant"
    slots: Slots = field(default_factory=Slots)
    memory: dict[tuple[int, int], object] = field(default_factory=dict)
    num_computed: int = 0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            BlockPool(self.num_blocks, BLOCK_SIZE), self.slots, LIMITS, self.scope
        )
        self.cache = self.scheduler.sharing.cache

    def add(self, *sequences: Sequence) -> None:
        for one in sequences:
            self.scheduler.add(one)

    def step(self) -> Plan:
        """One step in which every sampling row gets token 1."""
        plan = self.scheduler.plan()
        for edit in plan.edits:
            for offset in range(BLOCK_SIZE):
                if isinstance(edit, CopyBlock):
                    found = self.memory.get((edit.source, offset))
                    self.memory[edit.target, offset] = found
                    continue
                for index, block in enumerate(edit.blocks):
                    position = index * BLOCK_SIZE + offset
                    self.memory[block, offset] = ("stored", edit.slot.digest, position)
        for row in plan.rows:
            self.compute(row)
        self.scheduler.commit(plan)
        for row in plan.rows:
            if row.samples and row.sequence.take(Sampled(1), frozenset()) is not None:
                self.scheduler.remove(row.sequence)
        self.scheduler.audit()
        return plan

    def run(self) -> None:
        for _ in range(3000):
            if not self.scheduler.running and not self.scheduler.waiting:
                return
            self.step()
        raise AssertionError("something never ends")

    def compute(self, row: Row) -> None:
        self.num_computed += row.count
        blocks = row.sequence.blocks
        expected = alone(row.sequence)
        for position in range(row.start, row.stop):
            place = (blocks[position // BLOCK_SIZE], position % BLOCK_SIZE)
            in_use = {
                block
                for other in self.scheduler.running
                if other is not row.sequence
                for block in other.blocks
            }
            assert place[0] not in in_use, "a block that another reads is written"
            self.memory[place] = computed(row, position)
        for position in range(row.stop):
            place = (blocks[position // BLOCK_SIZE], position % BLOCK_SIZE)
            assert self.memory[place] == expected[position], (row, position)


def computed(row: Row, position: int) -> object:
    """All that the keys and values at a position depend on, itself; what is before it apart."""
    sequence = row.sequence
    is_adapted = position >= sequence.adapted_from
    adapter = sequence.request.adapter
    digest = adapter.digest if adapter and is_adapted else None
    assert (row.slot != 0) == is_adapted or adapter is None
    virtual = position < sequence.num_virtual
    token = ("virtual", position) if virtual else sequence.ids(position, position + 1)[0]
    return (row.start, row.count, digest, token)


def alone(sequence: Sequence) -> list[object]:
    """What each position would hold had the sequence never shared anything."""
    adapter = sequence.request.adapter
    held: list[object] = []
    if adapter and adapter.digest in STORED:
        held = [("stored", adapter.digest, position) for position in range(sequence.num_virtual)]
    copy = replace(sequence)  # with the tokens of the prompt alone, and nothing computed
    copy.tokens = list(sequence.tokens)
    copy.num_computed = len(held)
    for count in copy.next_counts(CHUNK_LEN, 10**6):
        slot = 1 if adapter and copy.num_computed >= copy.adapted_from else 0
        row = Row(copy, copy.num_computed, count, slot)
        held += [computed(row, position) for position in range(row.start, row.stop)]
        copy.num_computed += count
    return held


def test_a_prompt_begun_alike_is_computed_from_where_it_differs() -> None:
    house = House()
    house.add(sequence(0, range(30)))
    house.run()
    second = sequence(1, [*range(26), 99, 98])
    house.add(second)
    plan = house.step()
    assert [(row.start, row.count) for row in plan.rows] == [(24, 4)]
    assert second.num_cached == 24


def test_a_hit_begins_at_multiples_of_chunk_and_block_alone() -> None:
    """At a multiple of the block alone the chunks behind it would have other shapes."""
    house = House()
    house.add(sequence(0, range(23)))
    house.run()
    house.add(sequence(1, range(23)))
    assert [(row.start, row.count) for row in house.step().rows] == [(12, 6), (18, 5)]


def test_a_partial_chunk_is_not_shared() -> None:
    """The last of 23 tokens were computed in a chunk of five, a longer prompt has six there."""
    house = House()
    house.add(sequence(0, range(23)))
    house.run()
    house.add(sequence(1, range(24)))
    assert [(row.start, row.count) for row in house.step().rows] == [(12, 6), (18, 6)]


def test_the_last_token_is_always_computed() -> None:
    house = House()
    house.add(sequence(0, range(24)))
    house.run()
    house.add(sequence(1, range(24)))
    assert [(row.start, row.count) for row in house.step().rows] == [(12, 6), (18, 6)]


@pytest.mark.parametrize("name", ["base", "other", "prompt"])
def test_nothing_is_shared_with_another_adapter(name: str) -> None:
    house = House()
    house.add(sequence(0, range(30), "plain"))
    house.run()
    second = sequence(1, range(30), name)
    house.add(second)
    house.run()
    assert second.num_cached == 0


def test_nothing_is_shared_with_another_tenant() -> None:
    house = House()
    house.add(sequence(0, range(30)))
    house.run()
    second = sequence(1, range(30), tenant="u")
    house.add(second)
    house.run()
    assert second.num_cached == 0


def test_virtual_tokens_are_not_shared_with_another_tenant() -> None:
    """Who has uploaded the same file: by the time it takes, nobody can tell."""
    house = House()
    for arrival, tenant in enumerate("tu"):
        house.add(sequence(arrival, [1, 2], "prompt", max_tokens=1, tenant=tenant))
        house.run()
    assert house.num_computed == 2 * (5 + 2)


def test_nothing_is_shared_where_it_is_off() -> None:
    house = House(scope="off")
    house.add(sequence(0, range(30)))
    house.run()
    assert house.cache.num_blocks == 0


def test_alora_shares_the_bases_blocks_before_its_invocation() -> None:
    house = House()
    prompt = [*range(10, 40), *INVOCATION, 50]
    house.add(sequence(0, prompt))
    house.run()
    second, third = sequence(1, prompt, "alora"), sequence(2, prompt, "plain")
    house.add(second, third)
    rows = [row for row in house.step().rows if row.sequence is second]
    assert [(row.start, row.count) for row in rows] == [(24, 6), (30, 3)]
    assert [row.slot for row in rows] == [0, 1 + sorted(ADAPTERS).index("alora")]
    house.run()
    assert third.num_cached == 0


def test_alora_shares_no_stretch_that_it_begins_in_elsewhere() -> None:
    """The same tokens up to 12: the first begins at 11, by a token behind the stretch."""
    begun = [10, 10, 10, *INVOCATION, *[10] * 6, 7]
    first, second = (
        sequence(0, [*begun, 8, *[10] * 17], "alora"),
        sequence(1, [*begun, 9, *[10] * 17], "alora"),
    )
    assert [first.adapted_from, second.adapted_from] == [11, 3]
    house = House()
    house.add(first)
    house.run()
    house.add(second)
    house.run()
    assert second.num_cached == 0


def test_alora_begins_at_the_last_invocation_of_the_prompt() -> None:
    """And never where there is none, whatever is generated."""
    assert sequence(0, [7, 8, 1, 7, 8, 7], "alora").adapted_from == 3
    assert sequence(0, [7, 8], "alora").adapted_from == 0
    assert sequence(0, [8, 7], "alora", max_tokens=9).adapted_from == 2 + 9


def test_virtual_tokens_are_computed_by_one_while_the_others_wait() -> None:
    house = House()
    house.add(*(sequence(arrival, [1, 2], "prompt") for arrival in range(3)))
    assert {row.sequence.arrival for row in house.step().rows} == {0}
    house.run()
    assert house.num_computed == 5 + 3 * (2 + 3)


def test_if_the_one_who_computes_them_goes_the_next_one_does() -> None:
    house = House()
    first, second = (sequence(arrival, [1, 2], "long") for arrival in range(2))
    house.add(first, second)
    house.scheduler.limits = replace(LIMITS, max_batch_tokens=10)  # not all of them in one step
    house.step()
    assert first in house.scheduler.running
    house.scheduler.remove(first)
    assert {row.sequence.arrival for row in house.step().rows} == {1}
    house.run()


def test_stored_virtual_tokens_are_stored_once_and_never_computed() -> None:
    house = House()
    house.add(*(sequence(arrival, [1, 2], "prefix") for arrival in range(3)))
    assert {row.start for row in house.step().rows} == {6}
    house.run()
    assert house.num_computed == 3 * (2 + 3)
    assert house.cache.num_blocks == 2


def test_the_copy_of_a_partial_block_counts_as_room() -> None:
    """As `Engine.max_len` counts it: what it allows has room, and no more is let in."""
    house = House(num_blocks=4)
    house.add(sequence(0, range(9), "prefix"))
    assert house.step().rows == ()
    house.scheduler.remove(house.scheduler.waiting[0])
    house.add(sequence(1, range(3), "prefix", max_tokens=3))
    house.run()


def test_what_is_departed_is_forgotten() -> None:
    house = House()
    house.add(sequence(0, range(30), "prefix"), sequence(1, range(30), "plain"))
    house.add(sequence(2, range(30)))
    house.run()
    house.slots.leaving = {"prefix", "plain"}
    house.step()
    assert house.cache.num_blocks == 24 // BLOCK_SIZE  # the base's


def test_what_a_bad_sequence_shared_is_forgotten() -> None:
    house = House()
    bad = sequence(0, range(30))
    house.add(bad)
    while bad.num_computed < 30:
        house.step()
    house.scheduler.remove(bad, forget=True)
    assert house.cache.num_blocks == 0
    assert house.scheduler.sharing.num_available == house.num_blocks


ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from(sorted(ADAPTERS)),
        st.sampled_from("tu"),
        st.integers(1, 40),  # tokens of the prompt
        st.integers(0, 3),  # from which position on it is its own
        st.sampled_from([None, 3, 20, 30]),  # where an invocation stands
        st.integers(1, 6),  # tokens to generate
        st.integers(0, 3),  # steps until the next one
        st.sampled_from(["", "", "", "cancel", "forget", "depart", "clear"]),
    ),
    max_size=14,
)


@settings(max_examples=300, deadline=None)
@given(
    arrivals=ARRIVALS,
    num_blocks=st.integers(16, 60),
    scope=st.sampled_from(["off", "tenant", "tenant"]),
)
def test_everybody_reads_what_they_would_have_computed(
    arrivals: list[tuple[str, str, int, int, int | None, int, int, str]],
    num_blocks: int,
    scope: PrefixScope,
) -> None:
    house = House(num_blocks=num_blocks, scope=scope)
    sequences = []
    for arrival, (name, tenant, length, own, invoked, max_tokens, gap, event) in enumerate(
        arrivals
    ):
        prompt = [10 + i for i in range(length)]
        for i in range(own * 12, length):
            prompt[i] = 100 + arrival
        if invoked is not None:
            prompt[invoked : invoked + 2] = INVOCATION
        one = sequence(arrival, prompt, name, max_tokens, tenant)
        sequences.append(one)
        house.add(one)
        for _ in range(gap):
            house.step()
        running = house.scheduler.running
        if event in ("cancel", "forget") and running:
            house.scheduler.remove(running[arrival % len(running)], forget=event == "forget")
        elif event == "depart":
            house.slots.leaving = {name for name, pins in house.slots.pins.items() if not pins}
        elif event == "clear":
            for every in tuple(running):
                house.scheduler.remove(every)
            house.scheduler.sharing.clear()
    house.run()
    sharing = house.scheduler.sharing
    assert sharing.num_available == num_blocks
    assert not any(house.slots.pins.values())
    house.cache.clear()
    assert sharing.pool.num_free == num_blocks
    for one in sequences:
        assert one.num_generated in (0, one.request.params.max_tokens) or one.blocks == []
