"""Examples of the SQL adapter: described tables, questions, statements, and their judge."""

import csv
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from motet.demo.example import Example

_DATA = Path(__file__).parent / "data"
_FRAMES = (
    "Table {name}({columns}). {question}",
    "Given the table {name} ({columns}): {question}",
    "{name}({columns})\n{question}",
    "Schema: {name}({columns})\nQuestion: {question}",
)


@dataclass(frozen=True)
class Table:
    """A table: a key, a label column, text columns and number columns with sample values."""

    name: str
    label: str
    texts: dict[str, tuple[str, ...]]
    numbers: dict[str, tuple[str, ...]]

    @classmethod
    def parse(cls, spec: str) -> "Table":
        """From "name label; text=a/b, ...; number=1/2, ..."."""
        head, texts, numbers = spec.split("; ")
        name, label = head.split()
        return cls(name, label, _columns(texts), _columns(numbers))


class Shape(NamedTuple):
    """A question about any table and its statement. {t} stands for the table, {l} for its label,
    {c} and {v} for a text column and a value of it, {n} and {x} for a number column and a value
    of it, {k} for a small count."""

    question: str
    answer: str


class TableQuestion(NamedTuple):
    """A question about one table, with no statement to expect: several may be right."""

    table: str
    columns: str
    question: str

    @property
    def prompt(self) -> str:
        """The question as it is asked, after the table's description."""
        return _FRAMES[0].format(name=self.table, columns=self.columns, question=self.question)


def tables() -> tuple[Table, ...]:
    """The tables the examples are about: every line of data/sql_tables.txt."""
    return tuple(map(Table.parse, _read("sql_tables.txt").splitlines()))


def shapes() -> tuple[Shape, ...]:
    """The questions the examples ask: every row of data/sql_shapes.tsv."""
    return tuple(Shape(**row) for row in _rows("sql_shapes.tsv"))


def development_questions() -> tuple[TableQuestion, ...]:
    """Questions about other tables in other words, that the examples were improved on."""
    return tuple(TableQuestion(**row) for row in _rows("development_sql.tsv"))


def held_out_questions() -> tuple[TableQuestion, ...]:
    """Questions about yet other tables, written before training and used to measure alone."""
    return tuple(TableQuestion(**row) for row in _rows("held_out_sql.tsv"))


def sql_examples(count: int, seed: int) -> list[Example]:
    """`count` questions about described tables, answered by one statement and nothing else."""
    rng = random.Random(seed)
    known, asked = tables(), shapes()
    return [_ask(rng, rng.choice(known), rng.choice(asked)) for _ in range(count)]


def is_select(reply: str) -> bool:
    """Whether the reply begins as a query and has one line: the format alone."""
    return reply.startswith("SELECT ") and "\n" not in reply.strip()


def is_statement(reply: str, table: str, columns: str) -> bool:
    """Whether the reply is one SELECT that SQLite can compile for the table. The answer to the
    question may still be another."""
    if not is_select(reply):
        return False
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"CREATE TABLE {table} ({columns})")
        try:
            connection.execute(f"EXPLAIN {reply}")  # refuses a second statement too
        except (sqlite3.Error, sqlite3.Warning):
            return False
    return True


def _ask(rng: random.Random, table: Table, shape: Shape) -> Example:
    # Other columns each time: an adapter that knows the tables by heart would not read them.
    texts = rng.sample(list(table.texts), rng.randint(1, len(table.texts)))
    numbers = rng.sample(list(table.numbers), rng.randint(1, len(table.numbers)))
    text, number = rng.choice(texts), rng.choice(numbers)
    words = {
        "t": table.name,
        "l": table.label,
        "c": text,
        "v": rng.choice(table.texts[text]),
        "n": number,
        "x": rng.choice(table.numbers[number]),
        "k": str(rng.randint(2, 9)),
    }
    question, answer = (part.format(**words) for part in shape)
    others = rng.sample([*texts, *numbers], len(texts) + len(numbers))
    columns = ", ".join(("id", table.label, *others))
    frame = rng.choice(_FRAMES)
    return Example(frame.format(name=table.name, columns=columns, question=question), answer)


def _columns(spec: str) -> dict[str, tuple[str, ...]]:
    pairs = (column.split("=") for column in spec.split(", "))
    return {name: tuple(values.split("/")) for name, values in pairs}


def _read(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")


def _rows(name: str) -> list[dict[str, str]]:
    lines = _read(name).splitlines()
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
