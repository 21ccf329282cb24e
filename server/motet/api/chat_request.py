"""The body of POST /v1/chat/completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from motet.api.schemas import Bounds, TextRequest, unsupported, wrong

_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART_SCHEMA}]}


def _text(content: object) -> object:
    """Content as one string. Several text parts become its lines, as other servers do it."""
    if not isinstance(content, list):
        return content
    if not content:
        raise wrong("messages", "the content of a message must not be an empty list")
    return "\n".join(_part_text(part) for part in content)


def _part_text(part: object) -> str:
    if not isinstance(part, dict):
        raise wrong("messages", "a content part must be an object with type and text")
    if part.get("type") != "text":
        raise wrong("messages", "only text parts are supported; images, audio and files are not")
    text = part.get("text")
    if set(part) != {"type", "text"} or not isinstance(text, str):
        raise wrong("messages", "a text part must have type and text, a string, and nothing else")
    return text


class Message(BaseModel):
    """One turn of a conversation. Fields that clients copy from a reply may be there, but empty."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text), WithJsonSchema(_CONTENT_SCHEMA)]

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("role") in ("tool", "function"):
            raise wrong("messages", "the roles tool and function are not supported")
        if data.get("role") == "assistant" and data.get("content", "") is None:
            raise wrong("messages", "an assistant's message needs content")
        asked = {"name", "refusal", "annotations", "audio", "tool_calls", "function_call"}
        for name in sorted(asked & set(data)):
            if data[name] not in (None, [], ""):
                raise unsupported(f"messages: {name}")
        return {name: value for name, value in data.items() if name not in asked}

    def turn(self) -> dict[str, str]:
        """As a chat template takes it. Only OpenAI's own models know a developer."""
        return {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content,
        }


class ChatRequest(TextRequest):
    """A request to answer a conversation."""

    UNSUPPORTED: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "tools": ([],),
        "tool_choice": ("none",),
        "parallel_tool_calls": (),
        "functions": ([],),
        "function_call": ("none",),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
    }

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _check_num_messages(cls, value: object, info: ValidationInfo) -> object:
        most = Bounds.of(info).settings.max_messages
        if isinstance(value, list) and len(value) > most:
            raise wrong("messages", f"messages must hold at most {most} messages")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _check_top_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = Bounds.of(info).settings.max_logprobs
        if value is not None and not 0 <= value <= most:
            raise wrong("top_logprobs", f"top_logprobs must be from 0 to {most}")
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs", "top_logprobs needs logprobs to be true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise wrong("max_tokens", "give max_completion_tokens or max_tokens, not both")
        return self

    @property
    def max_len(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_top_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def turns(self) -> list[dict[str, str]]:
        """The conversation as a chat template takes it."""
        return [message.turn() for message in self.messages]
