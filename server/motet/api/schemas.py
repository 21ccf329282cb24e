"""What a client may send for text: the fields common to completions and chat, each with its limit.

A field that is not known is refused, and so is one that is known elsewhere but not supported
here: nothing that a client asked for is dropped in silence, but for `IGNORED`, which never changes
an answer. A field sent as null counts as left out.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from motet_adapters.compositions import MAX_MEMBERS
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
from pydantic_core import PydanticCustomError

from motet.engine.request import SamplingParams
from motet.errors import RequestRefused
from motet.settings import Settings

IGNORED = ("user", "safety_identifier", "store", "metadata", "service_tier", "prompt_cache_key")
"""Fields of OpenAI's that are accepted and have no effect."""


@dataclass(frozen=True)
class Bounds:
    """What the server and its model allow; the context every request is validated in."""

    settings: Settings
    vocab_size: int

    @classmethod
    def of(cls, info: ValidationInfo) -> Self:
        bounds = info.context
        assert isinstance(bounds, cls)
        return bounds


def wrong(param: str, message: str) -> PydanticCustomError:
    """A refusal of `param`. The message is not a template: braces in it mean nothing."""
    return PydanticCustomError("invalid", "{message}", {"message": message, "param": param})


def unsupported(param: str) -> PydanticCustomError:
    message = f"{param} is not supported by this server; leave it out"
    return PydanticCustomError("unsupported", "{message}", {"message": message, "param": param})


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None


class WeightedAdapter(BaseModel):
    """One of several adapters of a request; what it changes counts `weight` times."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=256)
    weight: float = 1.0


_STOP_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]
}


def _strings(value: object) -> object:
    """One stop string or several, as several."""
    return [value] if isinstance(value, str) else value


class TextRequest(BaseModel):
    """The fields that completions and chat share."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # name -> values that ask for nothing, and so are accepted
    UNSUPPORTED: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    model: str = Field(min_length=1, max_length=256)
    adapters: list[WeightedAdapter] | None = Field(None, min_length=1, max_length=MAX_MEMBERS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_strings), WithJsonSchema(_STOP_SCHEMA)] = (
        None
    )
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None

    user: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        return {
            name: value for name, value in data.items() if not cls._asks_nothing(name, value, data)
        }

    @classmethod
    def _asks_nothing(cls, name: str, value: object, data: Mapping[str, object]) -> bool:
        """Whether an unsupported field can be left out. Raises where it cannot."""
        if name not in cls.UNSUPPORTED:
            return False
        if value is not None and not _is_one_of(value, cls.UNSUPPORTED[name]):
            raise unsupported(name)
        return True

    @field_validator("n")
    @classmethod
    def _check_n(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = Bounds.of(info).settings.max_n
        if value is not None and value > most:
            raise wrong("n", f"n must be at most {most}")
        return value

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        settings, stops = Bounds.of(info).settings, value or []
        if len(stops) > settings.max_stop:
            raise wrong("stop", f"stop must hold at most {settings.max_stop} strings")
        if any(not 1 <= len(stop) <= settings.max_stop_chars for stop in stops):
            raise wrong(
                "stop", f"each stop string must be of 1 to {settings.max_stop_chars} characters"
            )
        return value

    @field_validator("stop_token_ids")
    @classmethod
    def _check_stop_ids(cls, value: list[int] | None, info: ValidationInfo) -> list[int] | None:
        bounds, ids = Bounds.of(info), value or []
        if len(ids) > bounds.settings.max_stop_token_ids:
            most = bounds.settings.max_stop_token_ids
            raise wrong("stop_token_ids", f"stop_token_ids must hold at most {most} ids")
        check_ids("stop_token_ids", ids, bounds)
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _check_num_biases(cls, value: object, info: ValidationInfo) -> object:
        most = Bounds.of(info).settings.max_logit_bias
        if isinstance(value, dict) and len(value) > most:
            raise wrong("logit_bias", f"logit_bias must hold at most {most} entries")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _check_biases(
        cls, value: dict[str, float] | None, info: ValidationInfo
    ) -> dict[str, float] | None:
        for key, bias in (value or {}).items():
            if not (key.isascii() and key.isdecimal() and len(key) <= 10):
                raise wrong("logit_bias", "the keys of logit_bias must be token ids")
            if not -100 <= bias <= 100:
                raise wrong("logit_bias", "the values of logit_bias must be from -100 to 100")
        check_ids("logit_bias", [int(key) for key in value or {}], Bounds.of(info))
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "stream_options needs stream to be true")
        if self.min_tokens is not None and self.max_len is not None:
            most = self.max_len
            if self.min_tokens > most:
                raise wrong("min_tokens", f"min_tokens must be at most max_tokens ({most})")
        return self

    @property
    def max_len(self) -> int | None:
        """The most tokens to generate, if the client said so."""
        return self.max_tokens

    @property
    @abstractmethod
    def num_top_logprobs(self) -> int | None:
        """None: no log-probabilities. k: the chosen token's and those of the k likeliest."""

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, max_tokens: int) -> SamplingParams:
        """These fields as the engine takes them. Raises RequestRefused."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": self.seed,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "logprobs": self.num_top_logprobs,
        }
        try:
            return SamplingParams(
                max_tokens=max_tokens,
                logit_bias={int(key): bias for key, bias in (self.logit_bias or {}).items()},
                stop=tuple(self.stop or ()),
                stop_token_ids=tuple(self.stop_token_ids or ()),
                **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
            )
        except ValueError as error:
            # The engine's own check of the same limits; its sentences are meant for clients.
            raise RequestRefused(f"{error}.", "invalid_parameter") from error


def check_ids(param: str, ids: list[int], bounds: Bounds) -> None:
    """Raises unless every id is one of the vocabulary."""
    if ids and not (min(ids) >= 0 and max(ids) < bounds.vocab_size):
        raise wrong(param, f"token ids in {param} must be from 0 to {bounds.vocab_size - 1}")


def _is_one_of(value: object, allowed: tuple[object, ...]) -> bool:
    """Equality that tells False from 0 and 1 from True."""
    return any(type(value) is type(other) and value == other for other in allowed)
