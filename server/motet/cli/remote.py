"""A running server, as the client commands see it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer

from motet.errors import MotetError

Url = Annotated[
    str, typer.Option(envvar="MOTET_URL", help="Where the server listens.", show_default=True)
]
Key = Annotated[
    str | None,
    typer.Option(envvar="MOTET_API_KEY", help="The tenant's key.", show_default=False),
]
DEFAULT_URL = "http://127.0.0.1:8000"

# Generation and the lowering of a large upload may take long; connecting may not.
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)


class ServerRefused(MotetError):
    """The server answered with an error, or not at all."""


class ConnectionBroken(ServerRefused):
    """The server was reached, and then not any more; what was sent may have arrived."""


class Remote:
    """Calls to one server as one tenant. Every failure is a ServerRefused with a sentence."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT)
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerRefused(
                f"{url} is no URL ({error}); give --url http://HOST:PORT."
            ) from None
        self._url = url

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, **parts: Any) -> Any:
        """The JSON answer of one request; None where there is no body."""
        with self._reaching():
            answer = self._client.request(method, path, **parts)
        self._require_success(answer)
        return _json(answer) if answer.content else None

    def find(self, method: str, path: str, **parts: Any) -> Any:
        """As `call`; None, too, where the server says that there is no such thing."""
        try:
            return self.call(method, path, **parts) or {}
        except ServerRefused as error:
            if error.code == str(httpx.codes.NOT_FOUND.value):
                return None
            raise

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The data of each server-sent event of one streaming request, up to [DONE]."""
        with self._reaching(), self._client.stream("POST", path, json=body) as answer:
            if answer.is_error:
                answer.read()
            self._require_success(answer)
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield _event(line.removeprefix("data: "))
        raise ServerRefused("The stream ended before the answer was complete; try again.")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise ServerRefused(
                f"{self._url} is no URL of a server; give --url http://HOST:PORT."
            ) from None
        except httpx.ConnectError:
            raise ServerRefused(
                f"No server answers at {self._url}. Start one with `motet serve`, or say where "
                "it is with --url (MOTET_URL)."
            ) from None
        except httpx.TimeoutException:
            raise ConnectionBroken(
                f"{self._url} did not answer in time; try again later."
            ) from None
        except httpx.HTTPError as error:
            raise ConnectionBroken(f"The connection to {self._url} broke: {error}.") from None

    def _require_success(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        message = _message(answer)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            message += " Give the tenant's key with --key (MOTET_API_KEY)."
        raise ServerRefused(message, str(answer.status_code))


def _event(data: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(data)
    if "error" in event:
        raise ServerRefused(str(event["error"].get("message", event["error"])))
    return event


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise ServerRefused(
            f"{answer.url} answered with something that is not JSON; is it a Motet server?"
        ) from None


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered {answer.status_code} {answer.reason_phrase}."
