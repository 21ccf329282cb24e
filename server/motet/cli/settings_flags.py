"""Command-line flags made from `Settings`, so that flags, variables and help have one source."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import typer
from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo

from motet.errors import InvalidSetting
from motet.settings import Settings, env_name

Command = Callable[..., None]

_METAVARS: Mapping[type, str] = {
    Path: "PATH",
    ByteSize: "BYTES",
    int: "N",
    float: "SECONDS",
    SecretStr: "KEY",
}


def with_settings(*fields: str) -> Callable[[Command], Command]:
    """Gives a command `settings: Settings` and one flag for each of `fields` (all, if none).

    Flags reach `Settings.load` as text, which also reads the environment: the same words are
    refused with the same sentence wherever they came from.
    """
    names = fields or tuple(Settings.model_fields)

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]

        @wraps(command)
        def run(**values: Any) -> None:
            flags = {name: values.pop(name) for name in names}
            command(settings=load_settings(flags), **values)

        wired = cast(Any, run)
        wired.__signature__ = inspect.Signature(own + [_flag(name) for name in names])
        # typer resolves annotations by name; the signature above already holds real types.
        wired.__annotations__ = {p.name: p.annotation for p in own} | {
            name: _flag(name).annotation for name in names
        }
        return run

    return decorate


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """`Settings.load`, with sentences that call a setting by the flag that was given for it."""
    try:
        return Settings.load(flags)
    except InvalidSetting as error:
        message = error.message
        for name, value in flags.items():
            if value is not None:
                message = message.replace(f"{env_name(name)}:", f"{flag_name(name)}:")
        raise InvalidSetting(message, error.code, error.param) from None


def flag_name(field: str) -> str:
    """The flag of a setting: drain_timeout_s is --drain-timeout-s."""
    return f"--{field.replace('_', '-')}"


def default_text(field: str) -> str:
    """A setting's default as one would type it; "" where there is none."""
    default = Settings.model_fields[field].default
    return "" if default is None else typed_text(default)


def typed_text(value: object) -> str:
    """A setting's value as one would type it; a secret as asterisks."""
    if isinstance(value, ByteSize):
        return value.human_readable(separator="").replace(".0", "")
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flag(field: str) -> inspect.Parameter:
    info = Settings.model_fields[field]
    kind = _plain_type(info)
    switch = kind is bool
    option = typer.Option(
        f"{flag_name(field)}/--no-{flag_name(field)[2:]}" if switch else flag_name(field),
        help=f"{info.description} {_origins(field)}",
        show_default=False,
        metavar=None if switch else _metavar(kind),
    )
    annotation = Annotated[bool | None, option] if switch else Annotated[str | None, option]
    return inspect.Parameter(
        field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _origins(field: str) -> str:
    default = default_text(field)
    return f"[{env_name(field)}{f', default {default}' if default else ''}]"


def _plain_type(info: FieldInfo) -> Any:
    """The type of a setting without `| None` and without its constraints."""
    kind: Any = info.annotation
    inner = [arg for arg in get_args(kind) if arg is not type(None)]
    if len(inner) == 1 and type(None) in get_args(kind):
        kind = inner[0]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return _METAVARS.get(kind, "TEXT")
