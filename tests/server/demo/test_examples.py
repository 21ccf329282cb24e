"""The demo's data: every answer passes its own judge, and nothing held out is trained on."""

from motet.demo import sql
from motet.demo.answers import french_examples, is_french, is_json_answer, json_examples
from motet.demo.phrases import held_out_questions


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


def test_every_held_out_statement_compiles() -> None:
    asked = sql.held_out_questions(96, seed=3)
    assert all(sql.is_statement(one.answer, one.table) for one in asked)


def test_statement_judge_refuses_other_tables_columns_and_second_statements() -> None:
    table = sql.HELD_OUT_TABLES[0]
    assert sql.is_statement("SELECT title FROM books;", table)
    assert not sql.is_statement("SELECT title FROM shelves;", table)
    assert not sql.is_statement("SELECT colour FROM books;", table)
    assert not sql.is_statement("SELECT title FROM books; SELECT 1;", table)
    assert not sql.is_statement("Here you are: SELECT title FROM books;", table)


def test_held_out_is_not_trained_on() -> None:
    held_out = {question.lower().rstrip("?.! ") for question in held_out_questions()}
    trained = {
        example.question.removeprefix("Quick question: ").removeprefix("Question: ").lower()
        for examples in (json_examples(4000, seed=1), french_examples(4000, seed=1))
        for example in examples
    }
    assert not held_out & {question.rstrip("?.! ") for question in trained}
    names = {table.name for table in sql.TABLES}
    assert not names & {table.name for table in sql.HELD_OUT_TABLES}


def test_examples_are_the_same_for_the_same_seed() -> None:
    assert sql.sql_examples(50, seed=4) == sql.sql_examples(50, seed=4)
    assert french_examples(50, seed=4) == french_examples(50, seed=4)
