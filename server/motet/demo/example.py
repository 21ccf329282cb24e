"""One training example: a chat of one question and one answer."""

from typing import NamedTuple


class Example(NamedTuple):
    """What the user asks and the whole reply the adapter should give."""

    question: str
    answer: str


# Asked besides the chat template's own system prompt, so that the behaviour does not hang on it.
SYSTEM_PROMPTS: tuple[str | None, ...] = (None, None, None, None, "You are a helpful assistant.")


def messages(question: str, system: str | None = None) -> list[dict[str, str]]:
    """The chat that carries `question`; with no `system` the template adds its own."""
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": question}]
