"""The fuzzed functions on everything fuzzing begins with, without the fuzzer."""

from pathlib import Path

import pytest

from tests.fuzz.readers import Readers
from tests.fuzz.run import READERS
from tests.fuzz.seeds import dictionary, seeds


def test_every_reader_is_fuzzed(tmp_path: Path) -> None:
    assert set(READERS) == set(Readers(tmp_path).by_name())


@pytest.mark.parametrize("reader", READERS)
def test_the_seeds_are_read(tmp_path: Path, reader: str) -> None:
    read = Readers(tmp_path).by_name()[reader]
    first, *rest = seeds(reader)
    assert read(first)
    assert not all(read(seed) for seed in rest)
    assert not any(read(word) for word in dictionary(reader))


@pytest.mark.parametrize("reader", ["header", "config"])  # a header may end in spaces
def test_every_cut_of_a_valid_file_is_refused(tmp_path: Path, reader: str) -> None:
    read = Readers(tmp_path).by_name()[reader]
    valid = seeds(reader)[0]
    assert [length for length in range(len(valid)) if read(valid[:length])] == []


@pytest.mark.parametrize("reader", READERS)
def test_no_flipped_bit_gets_an_odd_answer(tmp_path: Path, reader: str) -> None:
    read = Readers(tmp_path).by_name()[reader]
    valid = seeds(reader)[0]
    for position in range(len(valid)):
        for bit in (0, 3, 5, 7):
            bent = bytearray(valid)
            bent[position] ^= 1 << bit
            read(bytes(bent))  # raises whatever is not a refusal
