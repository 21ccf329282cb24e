"""Greedy replies to questions, and the share of them an adapter's judge accepts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from motet.demo.example import messages
from motet.demo.recipe import Judged

_MAX_NEW_TOKENS = 48
_BATCH_SIZE = 16


class Score(NamedTuple):
    """How many of `total` replies were accepted, and every (question, reply) that was not."""

    accepted: int
    total: int
    refused: tuple[tuple[str, str], ...]


def replies(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """Greedy replies, in order, each to a chat of one question."""
    found: list[str] = []
    for start in range(0, len(questions), _BATCH_SIZE):
        found.extend(_reply_batch(model, tokenizer, questions[start : start + _BATCH_SIZE]))
    return found


def score(model: Any, tokenizer: Any, questions: Sequence[Judged]) -> Score:
    """Asks every one of `questions` and judges the replies."""
    asked = replies(model, tokenizer, [one.question for one in questions])
    refused = tuple(
        (one.question, reply)
        for one, reply in zip(questions, asked, strict=True)
        if not one.accepts(reply)
    )
    return Score(len(questions) - len(refused), len(questions), refused)


def _reply_batch(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    prompts = [
        tokenizer.apply_chat_template(
            messages(question), tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]
    batch = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    with torch.inference_mode():
        output = model.generate(
            **batch,
            max_new_tokens=_MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    new_tokens = output[:, batch.input_ids.shape[1] :]
    texts: list[str] = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return texts
