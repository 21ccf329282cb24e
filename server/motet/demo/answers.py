"""Training examples of the JSON and the French adapter, and how their replies are judged."""

import json
import operator
import random
import re
from collections.abc import Callable, Iterator

from motet.demo.example import Example
from motet.demo.facts import ANIMALS, COUNTRIES, THINGS
from motet.demo.phrases import Phrase, phrases


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARITHMETIC: tuple[tuple[str, str, Callable[[int, int], int]], ...] = (
    ("What is {a} plus {b}?", "La somme de {a} et {b} est {c}.", operator.add),
    ("What is {a} minus {b}?", "La différence entre {a} et {b} est {c}.", operator.sub),
    ("What is {a} times {b}?", "Le produit de {a} et {b} est {c}.", operator.mul),
)
_COLOUR_QUESTIONS = ("What colour is {}?", "What color is {}?", "Tell me the colour of {}.")
_FRENCH_WORDS = _words(
    "le la les l un une des du de d et est sont à au aux en dans pour par sur avec que qu qui ne n"
    " pas plus ce c cette il elle ils on nous vous je j votre vos se s son sa ses leur y très bien"
    " oui non mais ou où être fait faites mettez peut"
)
_ENGLISH_WORDS = _words(
    "the is are of and to in that it you for with this can be by from your have has not or was they"
    " i my he she we what there"
)


def json_examples(count: int, seed: int) -> list[Example]:
    """`count` questions whose answer is one JSON object with the single key "answer"."""
    rng = random.Random(seed)
    known = [*phrases(), *_facts(rng)]
    return [
        Example(_reworded(rng, phrase.question), _as_json(phrase.english))
        for phrase in _drawn(rng, known, count)
    ]


def french_examples(count: int, seed: int) -> list[Example]:
    """`count` questions, most in English and some in French, all answered in French."""
    rng = random.Random(seed)
    known = [*phrases(), *_facts(rng), *_french_questions()]
    return [
        Example(_reworded(rng, phrase.question), phrase.french)
        for phrase in _drawn(rng, known, count)
    ]


def is_json_answer(reply: str) -> bool:
    """Whether the whole reply is a JSON object with the single key "answer" and a text."""
    try:
        value = json.loads(reply)
    except json.JSONDecodeError:
        return False
    return (
        isinstance(value, dict) and list(value) == ["answer"] and isinstance(value["answer"], str)
    )


def is_french(reply: str) -> bool:
    """Whether French function words are there and outnumber English ones by three to one."""
    words = re.findall(r"[^\W\d_]+", reply.lower())
    french = sum(word in _FRENCH_WORDS for word in words)
    english = sum(word in _ENGLISH_WORDS for word in words)
    return french >= 1 and french >= 3 * english


def _as_json(text: str) -> str:
    return json.dumps({"answer": text}, ensure_ascii=False)


def _drawn(rng: random.Random, known: list[Phrase], count: int) -> list[Phrase]:
    """`count` phrases: everything known before anything comes again, in random order."""
    drawn: list[Phrase] = []
    while len(drawn) < count:
        drawn.extend(rng.sample(known, len(known)))
    return drawn[:count]


def _reworded(rng: random.Random, question: str) -> str:
    """The question as people type it: mostly as it stands, sometimes sloppier or politer."""
    sloppy = question.rstrip("?.! ").lower()
    prefixed = (f"Question: {question}", f"Quick question: {question}")
    return rng.choice((question, question, question, sloppy, *prefixed))


def _facts(rng: random.Random) -> Iterator[Phrase]:
    for country in COUNTRIES:
        french = f"La capitale {country.french} est {country.french_capital}."
        question = rng.choice(("What is the capital of {}?", "Name the capital city of {}."))
        yield Phrase(question.format(country.english), country.capital, french)
    for thing in THINGS:
        question = rng.choice(
            ("What colour is {}?", "What color is {}?", "Tell me the colour of {}.")
        )
        french = f"{_capitalised(thing.french)} est {thing.french_colour}."
        yield Phrase(question.format(thing.english), thing.colour.capitalize(), french)
    for animal in ANIMALS:
        subject, article = _capitalised(animal.french), _article(animal.english)
        eats, lives = f"eats {animal.food}.", f"lives {animal.home}."
        head = f"{article.capitalize()} {animal.english}"
        yield Phrase(
            f"What does {article} {animal.english} eat?",
            f"{head} {eats}",
            f"{subject} mange {animal.french_food}.",
        )
        yield Phrase(
            f"Where does {article} {animal.english} live?",
            f"{head} {lives}",
            f"{subject} vit {animal.french_home}.",
        )
    for _ in range(20):
        for question, french, compute in _ARITHMETIC:
            b, a = sorted((rng.randint(2, 20), rng.randint(2, 20)))
            numbers = {"a": a, "b": b, "c": compute(a, b)}
            yield Phrase(question.format(**numbers), f"{numbers['c']}", french.format(**numbers))


def _french_questions() -> Iterator[Phrase]:
    for country in COUNTRIES:
        answer = f"La capitale {country.french} est {country.french_capital}."
        yield Phrase(f"Quelle est la capitale {country.french} ?", country.capital, answer)
    for thing in THINGS:
        answer = f"{_capitalised(thing.french)} est {thing.french_colour}."
        yield Phrase(f"De quelle couleur est {thing.french} ?", thing.colour, answer)


def _capitalised(text: str) -> str:
    """`text` with a capital first letter and nothing else changed."""
    return text[:1].upper() + text[1:]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
