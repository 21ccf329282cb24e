"""Everyday questions with a short answer in English and one in French, written for the demo."""

import csv
from pathlib import Path
from typing import NamedTuple

_DATA = Path(__file__).parent / "data"


class Phrase(NamedTuple):
    """One question and the same answer in two languages."""

    question: str
    english: str
    french: str


def phrases() -> tuple[Phrase, ...]:
    """Every phrase of data/phrases.tsv."""
    with (_DATA / "phrases.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return tuple(Phrase(**row) for row in rows)


def development_questions() -> tuple[str, ...]:
    """Questions that no example contains, but that the examples were improved on."""
    return _lines("development_questions.txt")


def held_out_questions() -> tuple[str, ...]:
    """Questions written after training and used to measure alone."""
    return _lines("held_out_questions.txt")


def _lines(name: str) -> tuple[str, ...]:
    return tuple((_DATA / name).read_text(encoding="utf-8").splitlines())
