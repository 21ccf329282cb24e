"""A process that uploads adapters when told to, and asks each for a first token."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import httpx

from benchmarks.neighbour import TIMEOUT_S, body, is_token

_NICENESS = 19


@dataclass(frozen=True)
class Upload:
    """When one began, was answered and gave its token; monotonic seconds."""

    begun: float
    accepted: float
    first_token: float


@contextmanager
def uploader(url: str, files: Sequence[dict[str, bytes]]) -> Iterator[Callable[[], Upload]]:
    """Gives what uploads the next of `files`. Its times compare with this process's own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, url, files), daemon=True)
    process.start()
    here.recv()  # it has started

    def upload() -> Upload:
        here.send(True)
        done = here.recv()
        if not isinstance(done, Upload):
            raise RuntimeError(f"the upload failed: {done}")
        return done

    try:
        yield upload
    finally:
        here.send(False)
        process.join()


def put(client: httpx.Client, name: str, files: dict[str, bytes]) -> None:
    parts = {filename: (filename, data) for filename, data in files.items()}
    client.put(f"/v1/adapters/{name}", files=parts).raise_for_status()


def _work(pipe: Connection, url: str, files: Sequence[dict[str, bytes]]) -> None:
    os.nice(_NICENESS)
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        client.get("/ready")
        pipe.send(True)
        for each in files:
            if not pipe.recv():
                return
            try:
                pipe.send(_upload(client, each))
            except (httpx.HTTPError, RuntimeError) as error:
                pipe.send(repr(error))
        pipe.recv()


def _upload(client: httpx.Client, files: dict[str, bytes]) -> Upload:
    begun = time.monotonic()
    put(client, "measured", files)
    accepted = time.monotonic()
    _first_token(client, "measured")
    done = Upload(begun, accepted, time.monotonic())
    client.delete("/v1/adapters/measured").raise_for_status()
    return done


def _first_token(client: httpx.Client, model: str) -> None:
    asked = body(model, max_tokens=1)
    with client.stream("POST", "/v1/completions", json=asked) as reply:
        if not any(is_token(line) for line in reply.iter_lines()):
            raise RuntimeError(f"no token from {model}: {reply.status_code}")
