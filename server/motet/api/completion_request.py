"""The body of POST /v1/completions."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema, field_validator

from motet.api.schemas import Bounds, TextRequest, check_ids, unsupported, wrong

Prompt = str | tuple[int, ...]

_TOKENS = {"type": "array", "items": {"type": "integer"}}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        _TOKENS,
        {"type": "array", "items": _TOKENS},
    ]
}


def _normal(value: object, info: ValidationInfo) -> tuple[Prompt, ...]:
    """A text, a list of texts, a list of token ids or a list of those, as a list of prompts.

    Written out because a union of the four would report every element four times.
    """
    bounds = Bounds.of(info)
    entries: Sequence[object] = value if isinstance(value, list) else [value]
    if entries and _all_ints(entries):
        entries = [entries]
    if not 1 <= len(entries) <= bounds.settings.max_prompts:
        raise wrong("prompt", f"prompt must hold 1 to {bounds.settings.max_prompts} prompts")
    return tuple(_prompt(entry, bounds) for entry in entries)


def _prompt(entry: object, bounds: Bounds) -> Prompt:
    if isinstance(entry, str):
        prompt: Prompt = entry
    elif isinstance(entry, list) and _all_ints(entry):
        check_ids("prompt", entry, bounds)
        prompt = tuple(entry)
    else:
        raise wrong("prompt", "prompt must be a string, token ids, or a list of one of the two")
    if not prompt:
        raise wrong("prompt", "prompt must not be empty")
    return prompt


def _all_ints(values: Sequence[object]) -> bool:
    return set(map(type, values)) <= {int}


class CompletionRequest(TextRequest):
    """A request to continue texts or tokens."""

    UNSUPPORTED: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "best_of": (),
        "echo": (False,),
        "suffix": ("",),
        "response_format": ({"type": "text"},),
        "prompt_logprobs": (),
    }

    prompt: Annotated[Any, BeforeValidator(_normal), WithJsonSchema(_PROMPT_SCHEMA)]
    logprobs: int | None = None

    @classmethod
    def _asks_nothing(cls, name: str, value: object, data: Mapping[str, object]) -> bool:
        if name == "best_of" and value is not None:
            # As many candidates as choices: nothing is left to be the best of.
            if type(value) is not int or value != (data.get("n") or 1):
                raise unsupported(name)
            return True
        return super()._asks_nothing(name, value, data)

    @field_validator("logprobs")
    @classmethod
    def _check_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = Bounds.of(info).settings.max_logprobs
        if value is not None and not 0 <= value <= most:
            raise wrong("logprobs", f"logprobs must be from 0 to {most}")
        return value

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        prompts: tuple[Prompt, ...] = self.prompt
        return prompts

    @property
    def num_top_logprobs(self) -> int | None:
        return self.logprobs
