"""Some of one choice's answer, in the engine's terms."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from motet.engine.request import Event, Finished, LogProb

_LEAST_LOGPROB = -9999.0


@dataclass
class Piece:
    """What one event or several added to a choice; with all of them, the whole choice."""

    index: int
    text: str = ""
    logprobs: list[LogProb] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: Event) -> None:
        self.text += event.text
        if isinstance(event, Finished):
            self.finished = event
        elif event.logprob is not None:
            self.logprobs.append(event.logprob)

    def append(self, later: "Piece") -> None:
        self.text += later.text
        self.logprobs.extend(later.logprobs)
        self.finished = later.finished

    @property
    def finish_reason(self) -> str | None:
        return None if self.finished is None else self.finished.reason

    @property
    def silent(self) -> bool:
        """Whether there is nothing in it to tell a client."""
        return not (self.text or self.logprobs or self.finished)


def shown(logprob: float) -> float:
    """A log-probability as JSON can hold it; OpenAI writes -9999 for what is all but impossible."""
    return max(logprob, _LEAST_LOGPROB)


def usage(ends: Iterable[Finished], num_choices_per_prompt: int) -> dict[str, Any]:
    """OpenAI's token counts, from the ends of all choices in order. A prompt counts once."""
    finished = list(ends)
    first = finished[::num_choices_per_prompt]
    prompt_tokens = sum(end.prompt_len for end in first)
    completion_tokens = sum(end.completion_len for end in finished)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_len for end in first)},
    }
