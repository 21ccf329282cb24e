"""The three demo adapters: which PEFT configuration, which examples, how they are judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from motet.demo import sql
from motet.demo.answers import french_examples, is_french, is_json_answer, json_examples
from motet.demo.example import Example
from motet.demo.phrases import development_questions, held_out_questions


class Judged(NamedTuple):
    """A question no example contains and the judge of a reply to it."""

    question: str
    accepts: Callable[[str], bool]


@dataclass(frozen=True)
class Recipe:
    """How one adapter is made. `lora` are the arguments of `peft.LoraConfig`."""

    name: str
    examples: Callable[[int, int], list[Example]]  # (count, seed)
    development: tuple[Judged, ...]
    """Looked at while the examples were written, so a score on them flatters."""
    held_out: tuple[Judged, ...]
    """Never looked at before the adapter was final. Nothing may be changed to suit them: then
    they are development questions, and others have to be written."""
    num_steps: int
    learning_rate: float
    lora: dict[str, Any] = field(default_factory=dict)


def _judged(questions: Sequence[str], accepts: Callable[[str], bool]) -> tuple[Judged, ...]:
    return tuple(Judged(question, accepts) for question in questions)


def _judged_sql(questions: Sequence[sql.TableQuestion]) -> tuple[Judged, ...]:
    return tuple(
        Judged(one.prompt, partial(sql.is_statement, table=one.table, columns=one.columns))
        for one in questions
    )


# Ranks and targets keep each file under 1 MB in bf16. French needs new words more than a new
# format, so it gets the MLP's output as well.
RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="json-only",
        examples=json_examples,
        development=_judged(development_questions(), is_json_answer),
        held_out=_judged(held_out_questions(), is_json_answer),
        num_steps=110,
        learning_rate=2e-3,
        lora={"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    ),
    Recipe(
        name="french",
        examples=french_examples,
        development=_judged(development_questions(), is_french),
        held_out=_judged(held_out_questions(), is_french),
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
        development=_judged_sql(sql.development_questions()),
        held_out=_judged_sql(sql.held_out_questions()),
        num_steps=160,
        learning_rate=2e-3,
        lora={
            "r": 8,
            "lora_alpha": 16,
            "use_dora": True,
            "target_modules": ["q_proj", "v_proj"],
        },
    ),
)
