"""Scheduling is pure bookkeeping, so it is tested without a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motet.engine.blocks import BlockPool
from motet.engine.request import Event, Request, SamplingParams
from motet.engine.sampler import Sampled, TokenCounts
from motet.engine.scheduler import PATIENCE, Plan, Scheduler, StepLimits
from motet.engine.sequence import Sequence
from motet.engine.stops import StopStrings
from motet_adapters import Adapter, AdapterLoadFailed, Slot

LIMITS = StepLimits(max_num_seqs=4, max_batch_tokens=16, chunk_len=8)


def adapter(digest: str) -> Adapter:
    return Adapter(
        tenant="t",
        name=digest,
        digest=digest,
        kind="lora",
        ranks=(4,),
        matched={"q_proj": 1},
        num_parameters=1,
        source_bytes=1,
        image_bytes=1,
        created=0,
    )


class Silent:
    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def sequence(
    arrival: int, prompt_len: int, digest: str | None = None, max_tokens: int = 8
) -> Sequence:
    events: list[Event] = []
    request = Request(
        id=f"r{arrival}",
        prompt=tuple(range(prompt_len)),
        params=SamplingParams(max_tokens=max_tokens, temperature=0.0),
        adapter=adapter(digest) if digest else None,
        tenant="t",
    )
    return Sequence(
        request=request,
        arrival=arrival,
        deliver=events.append,
        decoder=Silent(),
        stops=StopStrings(()),
        counts=TokenCounts(request.prompt),
    )


@dataclass
class Slots:
    """Slots for `room` adapters; `absent` ones are never ready, `broken` ones cannot be loaded."""

    room: int = 4
    absent: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    pins: dict[str, int] = field(default_factory=dict)

    def acquire(self, digest: str) -> Slot | None:
        if digest in self.broken:
            raise AdapterLoadFailed(digest, f"adapter {digest} could not be loaded")
        if digest in self.absent or (digest not in self.pins and len(self.pins) == self.room):
            return None
        self.pins[digest] = self.pins.get(digest, 0) + 1
        return Slot(
            index=1 + sorted(self.pins).index(digest), generation=0, digest=digest, views={}
        )

    def release(self, slot: Slot) -> None:
        self.pins[slot.digest] -= 1
        if not self.pins[slot.digest]:
            del self.pins[slot.digest]

    def departed(self) -> frozenset[str]:
        return frozenset()


def scheduler(num_blocks: int = 32, slots: Slots | None = None) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, block_size=4), slots or Slots(), LIMITS)


def run(scheduler: Scheduler) -> Plan:
    """One step in which every sampling row gets token 1."""
    plan = scheduler.plan()
    scheduler.commit(plan)
    for row in plan.rows:
        if row.samples and row.sequence.take(Sampled(1), frozenset()) is not None:
            scheduler.remove(row.sequence)
    return plan


def spans(plan: Plan) -> list[tuple[int, int, int]]:
    return [(row.sequence.arrival, row.start, row.count) for row in plan.rows]


def test_a_long_prompt_goes_in_chunks_on_a_fixed_grid() -> None:
    s = scheduler()
    s.add(sequence(0, prompt_len=19))
    assert spans(run(s)) == [(0, 0, 8), (0, 8, 8)]
    assert spans(run(s)) == [(0, 16, 3)]
    assert spans(run(s)) == [(0, 19, 1)]


def test_chunks_do_not_shrink_to_what_the_neighbours_leave() -> None:
    s = scheduler()
    s.add(sequence(0, prompt_len=6))
    s.add(sequence(1, prompt_len=12))
    # Ten tokens of the budget are left: one whole chunk of eight, and no piece of the next.
    assert spans(run(s)) == [(0, 0, 6), (1, 0, 8)]


def test_decoding_goes_on_while_a_prompt_is_computed() -> None:
    s = scheduler()
    s.add(sequence(0, prompt_len=2))
    run(s)
    s.add(sequence(1, prompt_len=20))
    assert spans(run(s)) == [(0, 2, 1), (1, 0, 8)]
    assert spans(run(s)) == [(0, 3, 1), (1, 8, 8), (1, 16, 4)]


def test_limits_that_would_starve_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="max_batch_tokens"):
        StepLimits(max_num_seqs=16, max_batch_tokens=16, chunk_len=8)


def test_the_youngest_is_preempted_and_computes_its_tokens_again_one_by_one() -> None:
    s = scheduler(num_blocks=5)
    old, young = sequence(0, prompt_len=6), sequence(1, prompt_len=6)
    s.add(old)
    s.add(young)
    while not s.num_preemptions:
        run(s)
    assert s.running == [old]
    assert s.waiting == [young]
    assert young.num_generated > 0
    generated = young.num_generated
    while old in s.running:
        run(s)
    plan = run(s)
    assert spans(plan) == [(1, 0, 6)] + [(1, 6 + i, 1) for i in range(generated)]


def test_a_preempted_sequence_keeps_its_place_in_the_line() -> None:
    s = scheduler(num_blocks=5)
    s.add(sequence(0, prompt_len=6))
    s.add(sequence(1, prompt_len=6))
    while not s.num_preemptions:
        run(s)
    s.add(sequence(2, prompt_len=1))
    assert [waiting.arrival for waiting in s.waiting] == [1, 2]


def test_an_adapter_that_is_not_there_yet_holds_nobody_else_up() -> None:
    slots = Slots(absent={"late"})
    s = scheduler(slots=slots)
    s.add(sequence(0, prompt_len=2, digest="late"))
    s.add(sequence(1, prompt_len=2, digest="here"))
    s.add(sequence(2, prompt_len=2))
    assert [row.sequence.arrival for row in run(s).rows] == [1, 2]
    slots.absent.clear()
    assert 0 in [row.sequence.arrival for row in run(s).rows]


def test_a_sequence_passed_over_too_often_closes_the_line_behind_it() -> None:
    slots = Slots(absent={"late"})
    s = scheduler(slots=slots)
    s.add(sequence(0, prompt_len=2, digest="late"))
    for _ in range(PATIENCE + 1):
        run(s)
    s.add(sequence(1, prompt_len=2))
    assert run(s).rows == ()
    slots.absent.clear()
    assert [row.sequence.arrival for row in run(s).rows] == [0, 1]


def test_an_adapter_that_cannot_be_loaded_fails_its_sequence_alone() -> None:
    s = scheduler(slots=Slots(broken={"bad"}))
    s.add(sequence(0, prompt_len=2, digest="bad"))
    s.add(sequence(1, prompt_len=2))
    plan = s.plan()
    assert [(failed.arrival, reason) for failed, reason in plan.failed] == [
        (0, "adapter bad could not be loaded")
    ]
    assert [row.sequence.arrival for row in plan.rows] == [1]


def test_the_audit_notices_blocks_held_by_nobody() -> None:
    s = scheduler()
    s.sharing.pool.grow([], 4)
    with pytest.raises(RuntimeError, match="not running"):
        s.audit()


ARRIVALS = st.lists(
    st.tuples(
        st.integers(1, 20),
        st.integers(1, 12),
        st.sampled_from([None, "a", "b", "c"]),
        st.integers(0, 3),
    ),
    max_size=12,
)


@settings(max_examples=200)
@given(arrivals=ARRIVALS, num_blocks=st.integers(8, 40), room=st.integers(1, 3))
def test_everything_ends_and_adds_up(
    arrivals: list[tuple[int, int, str | None, int]], num_blocks: int, room: int
) -> None:
    """Whatever arrives, every sequence gets all its tokens and all resources come back."""
    slots = Slots(room=room)
    s = scheduler(num_blocks, slots)
    sequences: list[Sequence] = []
    for arrival, (prompt_len, max_tokens, digest, gap) in enumerate(arrivals):
        sequences.append(sequence(arrival, prompt_len, digest, max_tokens))
        s.add(sequences[-1])
        for _ in range(gap):
            check_step(s, run(s), room)
    for _ in range(2000):
        if not s.running and not s.waiting:
            break
        check_step(s, run(s), room)
    assert [q.num_generated for q in sequences] == [q.request.params.max_tokens for q in sequences]
    s.audit()
    assert s.sharing.num_available == num_blocks
    assert slots.pins == {}


def check_step(s: Scheduler, plan: Plan, room: int) -> None:
    assert sum(row.count for row in plan.rows) <= LIMITS.max_batch_tokens
    assert len(s.running) <= LIMITS.max_num_seqs
    assert len({row.slot for row in plan.rows if row.slot}) <= room
    s.audit()
