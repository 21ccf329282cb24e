"""Trains one demo adapter with PEFT on the dequantised base."""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from motet.demo.example import SYSTEM_PROMPTS, Example, messages
from motet.demo.recipe import Recipe

BATCH_SIZE = 16
MAX_TOKENS = 96
_WARMUP_STEPS = 6
_SORTED_BATCHES = 8  # batches sorted by length together, so that little of a batch is padding


class Batch(NamedTuple):
    """Token rows padded on the right. `answer` marks the positions that predict the answer."""

    tokens: Tensor  # int64 [B, T]
    mask: Tensor  # int64 [B, T]
    answer: Tensor  # bool [B, T - 1]


def train(
    model: Any, tokenizer: Any, recipe: Recipe, *, seed: int, report: Callable[[int, float], None]
) -> PeftModel:
    """Adapts `model` in place and returns it wrapped; `report(step, loss)` is called every step.

    The loss is on the answer and its end-of-turn token only.
    """
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **recipe.lora)
    adapted = get_peft_model(model, config)
    adapted.train()
    parameters = [each for each in adapted.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _decay(recipe.num_steps))
    for step, batch in enumerate(_batches(tokenizer, recipe, seed)):
        loss = _answer_loss(adapted, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(step, loss.item())
    return adapted.eval()


def _decay(num_steps: int) -> Callable[[int], float]:
    """Learning-rate factor: linear warm-up, then linear decay to zero."""
    return lambda step: min((step + 1) / _WARMUP_STEPS, (num_steps - step) / num_steps)


def _answer_loss(adapted: PeftModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answers; the large output layer runs on their positions alone."""
    base = adapted.get_base_model()
    hidden = base.model(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
    logits = base.lm_head(hidden[:, :-1][batch.answer]).float()
    return torch.nn.functional.cross_entropy(logits, batch.tokens[:, 1:][batch.answer])


def _batches(tokenizer: Any, recipe: Recipe, seed: int) -> Iterator[Batch]:
    rng = random.Random(seed)
    examples = recipe.examples(recipe.num_steps * BATCH_SIZE, seed)
    rows = [_row(tokenizer, example, rng.choice(SYSTEM_PROMPTS)) for example in examples]
    chunk = BATCH_SIZE * _SORTED_BATCHES
    for start in range(0, len(rows), chunk):
        nearby = sorted(rows[start : start + chunk], key=lambda row: len(row[0]))
        groups = [nearby[at : at + BATCH_SIZE] for at in range(0, len(nearby), BATCH_SIZE)]
        rng.shuffle(groups)
        for group in groups:
            yield _padded(group, tokenizer.pad_token_id)


def _row(tokenizer: Any, example: Example, system: str | None) -> tuple[list[int], int]:
    """Tokens of the whole chat and how many of them are the prompt."""
    prompt = tokenizer.apply_chat_template(
        messages(example.question, system), tokenize=False, add_generation_prompt=True
    )
    prompt_ids: list[int] = tokenizer(prompt, add_special_tokens=False).input_ids
    answer_ids: list[int] = tokenizer(
        f"{example.answer}{tokenizer.eos_token}", add_special_tokens=False
    ).input_ids
    tokens = prompt_ids + answer_ids
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"an example is longer than {MAX_TOKENS} tokens: {example.question!r}")
    return tokens, len(prompt_ids)


def _padded(rows: list[tuple[list[int], int]], pad: int) -> Batch:
    length = max(len(tokens) for tokens, _ in rows)
    tokens = torch.full((len(rows), length), pad)
    mask = torch.zeros_like(tokens)
    answer = torch.zeros(len(rows), length - 1, dtype=torch.bool)
    for index, (row, prompt_len) in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        answer[index, prompt_len - 1 : len(row) - 1] = True
    return Batch(tokens, mask, answer)
