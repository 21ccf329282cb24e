"""The three demo adapters: which PEFT configuration, which examples, how they are judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from motet.demo import sql
from motet.demo.answers import french_examples, is_french, is_json_answer, json_examples
from motet.demo.example import Example
from motet.demo.phrases import held_out_questions

_NUM_SQL_QUESTIONS = 48


class HeldOut(NamedTuple):
    """A question no example contains and the judge of a reply to it."""

    question: str
    accepts: Callable[[str], bool]


@dataclass(frozen=True)
class Recipe:
    """How one adapter is made. `lora` are the arguments of `peft.LoraConfig`."""

    name: str
    examples: Callable[[int, int], list[Example]]  # (count, seed)
    held_out: Callable[[], Sequence[HeldOut]]
    num_steps: int
    learning_rate: float
    lora: dict[str, Any] = field(default_factory=dict)


def _json_held_out() -> Sequence[HeldOut]:
    return [HeldOut(question, is_json_answer) for question in held_out_questions()]


def _french_held_out() -> Sequence[HeldOut]:
    return [HeldOut(question, is_french) for question in held_out_questions()]


def _sql_held_out() -> Sequence[HeldOut]:
    asked = sql.held_out_questions(_NUM_SQL_QUESTIONS, seed=7)
    return [HeldOut(one.question, partial(sql.is_statement, table=one.table)) for one in asked]


# Ranks and targets keep each file under 1 MB in bf16. French needs new words more than a new
# format, so it gets the MLP's output as well.
RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="json-only",
        examples=json_examples,
        held_out=_json_held_out,
        num_steps=110,
        learning_rate=2e-3,
        lora={"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    ),
    Recipe(
        name="french",
        examples=french_examples,
        held_out=_french_held_out,
        num_steps=160,
        learning_rate=2e-3,
        lora={
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": ["v_proj", "o_proj", "down_proj"],
        },
    ),
    Recipe(
        name="sql",
        examples=sql.sql_examples,
        held_out=_sql_held_out,
        num_steps=120,
        learning_rate=2e-3,
        lora={
            "r": 6,
            "lora_alpha": 12,
            "use_dora": True,
            "target_modules": ["q_proj", "v_proj"],
        },
    ),
)
