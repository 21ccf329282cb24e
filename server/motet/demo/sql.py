"""Examples of the SQL adapter: described tables, questions, statements, and their judge."""

import random
import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from motet.demo.example import Example


@dataclass(frozen=True)
class Table:
    """A table: a key, a label column, text columns and number columns with sample values."""

    name: str
    label: str
    texts: dict[str, tuple[str, ...]]
    numbers: dict[str, tuple[str, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        return ("id", self.label, *self.texts, *self.numbers)

    @classmethod
    def parse(cls, spec: str) -> "Table":
        """From "name label; text=a/b, ...; number=1/2, ..."."""
        head, texts, numbers = spec.split("; ")
        name, label = head.split()
        return cls(name, label, _columns(texts), _columns(numbers))


class Question(NamedTuple):
    """A question about one table; `answer` is the statement expected for `question`."""

    table: Table
    question: str
    answer: str


def _columns(spec: str) -> dict[str, tuple[str, ...]]:
    pairs = (column.split("=") for column in spec.split(", "))
    return {name: tuple(values.split("/")) for name, values in pairs}


TABLES: tuple[Table, ...] = tuple(
    map(
        Table.parse,
        (
            "employees name; city=Paris/Rome/Berlin, team=sales/support; salary=2000/3500, age=45",
            "products title; category=toys/food/garden; price=10/25/100, stock=5/20",
            "orders item; status=open/paid/late, country=Spain/Italy; amount=50/250, quantity=2/10",
            "students name; school=North/South, subject=maths/music; grade=10/15, age=12/16",
            "cars model; brand=Fiat/Volvo/Ford, colour=red/blue; price=9000/20000, year=2010/2020",
            "movies title; genre=drama/comedy, language=French/English; rating=6/8, year=1990/2015",
            "countries name; continent=Asia/Europe/Africa; population=1000000/50000000, area=5000",
            "rivers name; country=Egypt/Brazil/China; length=500/2000",
            "flights number; origin=Oslo/Madrid, airline=North/Sky; distance=800, price=90/300",
            "hotels name; city=Lisbon/Vienna/Athens; stars=3/4, rooms=20/150",
            "songs title; mood=calm/happy, genre=rock/jazz; duration=180/300, plays=1000/50000",
            "players name; team=Reds/Blues, position=forward/goalkeeper; goals=5/20, age=21/30",
            "invoices reference; customer=North/South, status=open/paid; total=100/900, days=14/30",
            "patients name; ward=east/west, clinic=dental/eye; age=40/65, visits=2/6",
            "houses address; town=Bath/Delft, style=modern/old; price=150000/400000, bedrooms=2/4",
            "tickets subject; priority=low/high, status=open/closed; hours=4/24",
            "plants name; family=rose/fern, light=sun/shade; height=20/150, price=5/12",
            "courses title; level=beginner/advanced, campus=North/South; credits=3/6, seats=25/80",
            "trains number; line=coast/valley, operator=East/West; speed=120/250, delay=5/15",
            "recipes title; cuisine=Thai/Greek, meal=lunch/dinner; minutes=15/45, calories=300/700",
        ),
    )
)
# Never trained on: what the held-out score asks about.
HELD_OUT_TABLES: tuple[Table, ...] = tuple(
    map(
        Table.parse,
        (
            "books title; author=Austen/Verne, publisher=Oak/Elm; pages=200/500, price=8/20",
            "customers name; city=Lyon/Ghent/Turin, plan=free/premium; age=25/60, credit=100/1000",
            "cities name; country=Peru/Japan/Kenya; population=100000/2000000, altitude=200/1500",
            "animals name; species=dog/cat/horse, diet=grass/meat; weight=10/300, age=2/8",
            "projects title; office=Paris/Turin, status=active/done; budget=1000/20000, weeks=4/12",
        ),
    )
)

_FRAMES = (
    "Table {name}({columns}). {question}",
    "Given the table {name} ({columns}): {question}",
    "{name}({columns})\n{question}",
    "Schema: {name}({columns})\nQuestion: {question}",
)
# (a question about a table, its statement). {t} table, {l} label, {c}/{v} a text column and a value
# of it, {n}/{x} a number column and a value of it, {k} a small count.
_SHAPES = (
    ("How many {t} are there?", "SELECT COUNT(*) FROM {t};"),
    ("Count the {t}.", "SELECT COUNT(*) FROM {t};"),
    ("List all {t}.", "SELECT * FROM {t};"),
    ("Show the {l} of all {t}.", "SELECT {l} FROM {t};"),
    ("What is the {l} and {n} of every row?", "SELECT {l}, {n} FROM {t};"),
    ("Which {t} have a {n} above {x}?", "SELECT {l} FROM {t} WHERE {n} > {x};"),
    ("Which {t} have a {n} below {x}?", "SELECT {l} FROM {t} WHERE {n} < {x};"),
    ("Find {t} with {n} greater than {x}.", "SELECT {l} FROM {t} WHERE {n} > {x};"),
    ("Which {t} have {c} {v}?", "SELECT {l} FROM {t} WHERE {c} = '{v}';"),
    ("Show {t} where {c} is {v}.", "SELECT {l} FROM {t} WHERE {c} = '{v}';"),
    ("How many {t} have {c} {v}?", "SELECT COUNT(*) FROM {t} WHERE {c} = '{v}';"),
    ("How many {t} have a {n} over {x}?", "SELECT COUNT(*) FROM {t} WHERE {n} > {x};"),
    ("What is the average {n}?", "SELECT AVG({n}) FROM {t};"),
    ("What is the highest {n}?", "SELECT MAX({n}) FROM {t};"),
    ("What is the lowest {n}?", "SELECT MIN({n}) FROM {t};"),
    ("What is the total {n}?", "SELECT SUM({n}) FROM {t};"),
    ("Average {n} where {c} is {v}?", "SELECT AVG({n}) FROM {t} WHERE {c} = '{v}';"),
    ("How many {t} per {c}?", "SELECT {c}, COUNT(*) FROM {t} GROUP BY {c};"),
    ("Average {n} for each {c}?", "SELECT {c}, AVG({n}) FROM {t} GROUP BY {c};"),
    ("Top {k} {t} by {n}?", "SELECT {l} FROM {t} ORDER BY {n} DESC LIMIT {k};"),
    ("Which {k} {t} have the lowest {n}?", "SELECT {l} FROM {t} ORDER BY {n} LIMIT {k};"),
    ("List {t} sorted by {n}.", "SELECT {l} FROM {t} ORDER BY {n};"),
    ("Which different {c} values exist?", "SELECT DISTINCT {c} FROM {t};"),
    (
        "Which {t} with {c} {v} have a {n} above {x}?",
        "SELECT {l} FROM {t} WHERE {c} = '{v}' AND {n} > {x};",
    ),
)


def sql_examples(count: int, seed: int) -> list[Example]:
    """`count` questions about the training tables, answered by one statement and nothing else."""
    rng = random.Random(seed)
    asked = (_ask(rng, rng.choice(TABLES), rng.randrange(len(_SHAPES))) for _ in range(count))
    return [Example(question.question, question.answer) for question in asked]


def held_out_questions(count: int, seed: int) -> list[Question]:
    """`count` questions about tables that no training example describes, every shape in turn."""
    rng = random.Random(seed)
    return [
        _ask(rng, HELD_OUT_TABLES[index % len(HELD_OUT_TABLES)], index % len(_SHAPES))
        for index in range(count)
    ]


def is_statement(reply: str, table: Table) -> bool:
    """Whether the reply is one SELECT on one line that SQLite can compile for `table`."""
    if "\n" in reply.strip() or not reply.startswith("SELECT "):
        return False
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"CREATE TABLE {table.name} ({', '.join(table.columns)})")
        try:
            connection.execute(f"EXPLAIN {reply}")  # refuses a second statement too
        except sqlite3.Error:
            return False
    return True


def _ask(rng: random.Random, table: Table, shape: int) -> Question:
    text, number = rng.choice(tuple(table.texts)), rng.choice(tuple(table.numbers))
    words = {
        "t": table.name,
        "l": table.label,
        "c": text,
        "v": rng.choice(table.texts[text]),
        "n": number,
        "x": rng.choice(table.numbers[number]),
        "k": str(rng.randint(2, 9)),
    }
    question, answer = (part.format(**words) for part in _SHAPES[shape])
    frame = rng.choice(_FRAMES)
    asked = frame.format(name=table.name, columns=", ".join(table.columns), question=question)
    return Question(table, asked, answer)
