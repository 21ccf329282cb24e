"""`motet generate`: one prompt to a running server, the answer as it comes."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from motet.cli.remote import DEFAULT_URL, Key, Remote, ServerRefused, Url
from motet.cli.terminal import remarks, say


def generate(
    prompt: Annotated[str, typer.Argument(help='The prompt; "-" reads it from stdin.')],
    model: Annotated[
        str | None,
        typer.Option(help="The base or one of the tenant's adapters. Unset: the base."),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same answer.", show_default=False)
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message before the prompt.", show_default=False)
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Continue the prompt as plain text, not as a chat."),
    ] = False,
) -> None:
    """Send a prompt to a server, print the answer."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if raw and system is not None:
        raise typer.BadParameter("--system has no place in a --raw prompt; put it into the text.")
    with Remote(url, key) as server:
        body: dict[str, Any] = {
            "model": model or _base_name(server),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": True,
        }
        if seed is not None:
            body["seed"] = seed
        body |= {"prompt": text} if raw else {"messages": _messages(system, text)}
        path = "/v1/completions" if raw else "/v1/chat/completions"
        _print_answer(server, path, body)


def _print_answer(server: Remote, path: str, body: dict[str, Any]) -> None:
    reason = None
    for event in server.stream(path, body):
        for choice in event.get("choices", ()):
            typer.echo(_delta(choice), nl=False)
            reason = choice.get("finish_reason") or reason
    typer.echo()
    if reason == "length":
        say(remarks(), f"(cut off after {body['max_tokens']} tokens; raise --max-tokens)")


def _delta(choice: Mapping[str, Any]) -> str:
    return str(choice.get("text") or choice.get("delta", {}).get("content") or "")


def _messages(system: str | None, text: str) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


def _base_name(server: Remote) -> str:
    """The server lists its base before the adapters."""
    models = server.call("GET", "/v1/models").get("data", ())
    if not models:
        raise ServerRefused("The server lists no models; name one with --model.")
    return str(models[0]["id"])
