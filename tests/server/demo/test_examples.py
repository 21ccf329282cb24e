"""The demo's data: every answer passes its own judge, and nothing judged is trained on."""

import sqlite3

from motet.demo import sql
from motet.demo.answers import french_examples, is_french, is_json_answer, json_examples
from motet.demo.phrases import development_questions, held_out_questions


def test_json_answers_pass_their_judge() -> None:
    assert all(is_json_answer(example.answer) for example in json_examples(600, seed=0))


def test_french_answers_pass_their_judge() -> None:
    assert all(is_french(example.answer) for example in french_examples(600, seed=0))


def test_judges_refuse_what_they_should() -> None:
    assert not is_json_answer('{"answer": "x"} and more')
    assert not is_json_answer('{"reply": "x"}')
    assert not is_json_answer('["answer"]')
    assert not is_french("The capital of Norway is Oslo.")
    assert not is_french("Oslo")


def test_every_statement_trained_on_compiles_for_the_table_described() -> None:
    for example in sql.sql_examples(600, seed=3):
        name, columns = example.question.split("(")[0].split()[-1], example.question.split("(")[1]
        assert sql.is_statement(example.answer, name, columns.split(")")[0]), example


def test_statement_judge_refuses_other_tables_columns_and_second_statements() -> None:
    table = ("books", "id, title, price")
    assert sql.is_statement("SELECT title FROM books;", *table)
    assert not sql.is_statement("SELECT title FROM shelves;", *table)
    assert not sql.is_statement("SELECT colour FROM books;", *table)
    assert not sql.is_statement("SELECT title FROM books; SELECT 1;", *table)
    assert not sql.is_statement("Here you are: SELECT title FROM books;", *table)


def test_tables_judged_on_can_be_made() -> None:
    for one in (*sql.development_questions(), *sql.held_out_questions()):
        with sqlite3.connect(":memory:") as connection:
            connection.execute(f"CREATE TABLE {one.table} ({one.columns})")


def test_nothing_judged_is_trained_on() -> None:
    judged = {_plain(question) for question in (*development_questions(), *held_out_questions())}
    trained = {
        _plain(example.question.removeprefix("Quick question: ").removeprefix("Question: "))
        for examples in (json_examples(4000, seed=1), french_examples(4000, seed=1))
        for example in examples
    }
    assert not judged & trained
    judged_tables = {one.table for one in (*sql.development_questions(), *sql.held_out_questions())}
    assert not judged_tables & {table.name for table in sql.tables()}


def test_examples_are_the_same_for_the_same_seed() -> None:
    assert sql.sql_examples(50, seed=4) == sql.sql_examples(50, seed=4)
    assert french_examples(50, seed=4) == french_examples(50, seed=4)


def _plain(question: str) -> str:
    return question.lower().rstrip("?.! ")
