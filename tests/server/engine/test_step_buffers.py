"""One buffer for all small tables of a step, at the same addresses each time."""

from __future__ import annotations

import numpy as np
import torch
from motet.engine.step_buffers import ALIGNMENT, StepBuffers

CPU = torch.device("cpu")


def long(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_tables_hold_their_numbers_once_they_are_sent() -> None:
    buffers = StepBuffers(CPU)
    buffers.begin()
    ids, few = buffers.put(long(5, 6, 7)), buffers.put(np.array([1], dtype=np.int32))
    last = buffers.put(long(9))
    assert ids.tolist() == [0, 0, 0], "nothing is there before the one copy"
    buffers.send()
    assert (ids.tolist(), few.tolist(), last.tolist()) == ([5, 6, 7], [1], [9])
    assert (ids.dtype, few.dtype) == (torch.int64, torch.int32)


def test_each_table_is_aligned() -> None:
    buffers = StepBuffers(CPU)
    buffers.begin()
    tables = [buffers.put(np.arange(n, dtype=np.int32)) for n in (1, 3, 4, 5)]
    first = tables[0].data_ptr()
    assert all((table.data_ptr() - first) % ALIGNMENT == 0 for table in tables)


def test_the_next_step_s_tables_lie_where_the_last_one_s_did() -> None:
    buffers = StepBuffers(CPU)
    places = []
    for step in range(2):
        buffers.begin()
        tables = [buffers.put(long(step, 1)), buffers.put(long(step))]
        buffers.send()
        places.append([table.data_ptr() for table in tables])
        assert [table[0].item() for table in tables] == [step, step]
    assert places[0] == places[1]
    assert buffers.generation == 0


def test_a_step_too_large_is_right_and_the_next_one_fits() -> None:
    buffers = StepBuffers(CPU, num_bytes=64)
    buffers.begin()
    small, large = buffers.put(long(1)), buffers.put(np.arange(100, dtype=np.int64))
    buffers.send()
    assert buffers.overflowed
    assert small.tolist() == [1]
    assert large.tolist() == list(range(100))
    buffers.begin()
    assert buffers.generation == 1, "the addresses are others now"
    again = [buffers.put(long(1)), buffers.put(np.arange(100, dtype=np.int64))]
    buffers.send()
    assert not buffers.overflowed
    assert again[1].tolist() == list(range(100))


def test_an_empty_table() -> None:
    buffers = StepBuffers(CPU)
    buffers.begin()
    assert buffers.put(long()).tolist() == []
    buffers.send()
