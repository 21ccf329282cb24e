"""Processes that die in the middle of what the store does, for tests of what is left behind.

Run as a script (python -m tests.support.crashing_store VERB ROOT) so that torch is imported once:
each death then costs a fork.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from motet_adapters import AdapterStore, Limits, Origin
from motet_adapters.source import Source
from motet_database import Database

from tests.support.adapter_files import AdapterFiles, random_adapter
from tests.support.base_weights import RandomBase

BASE = RandomBase.llama(layers=1)
CALLS = ("mkdir", "open", "write", "sendfile", "fsync", "rename", "unlink", "rmdir")
_NEED_ROOM = ("mkdir", "write", "sendfile", "fsync", "rename")


def opened(root: Path) -> AdapterStore:
    return AdapterStore(
        root, BASE, dtype=torch.float32, limits=Limits(), host_bytes=1 << 20, max_versions=1
    )


def old_files() -> AdapterFiles:
    return random_adapter(BASE, seed=1)


def new_files() -> AdapterFiles:
    return random_adapter(BASE, seed=2, dora=True)


def counting(on_call: Callable[[int, bool], None]) -> Callable[[], None]:
    """Call `on_call(n, needs_room)` before this process's n-th file operation.

    `needs_room`: whether a full disk would refuse the operation. Returns the undoing.
    """
    originals = {name: getattr(os, name) for name in CALLS}
    num_calls = 0

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            creates = name == "open" and args[1] & os.O_CREAT
            on_call(num_calls, bool(creates) or name in _NEED_ROOM)
            return original(*args, **kwargs)

        return call

    def undo() -> None:
        for name, original in originals.items():
            setattr(os, name, original)

    for name, original in originals.items():
        setattr(os, name, counted(name, original))
    return undo


def put_and_wait(root: Path) -> None:
    """Publish, say so, and wait to be killed."""
    store = opened(root)
    adapter = old_files().put(store)
    print(adapter.digest, flush=True)  # noqa: T201
    time.sleep(60)


def replace_dying_at(root: Path, number: int) -> None:
    """Replace the adapter and be killed before the file operation of that number."""
    store = opened(root)
    counting(lambda n, _: os.kill(os.getpid(), signal.SIGKILL) if n == number else None)
    new_files().put(store)
    store.delete("acme", "one")


def forked(work: Callable[[], object]) -> tuple[int, str]:
    """What `work` printed as JSON and how its process ended: 0, or minus the signal."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(work()))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def inspected(root: Path) -> dict[str, object]:
    """What a new process finds, and whether it can serve it."""
    store = opened(root)
    adapters = store.list("acme")
    sizes = [store.image(adapter.digest).num_bytes for adapter in adapters]
    sources = sorted(path.name for path in (root / "sources").iterdir())
    images = sorted(path.name.partition(".")[0] for path in (root / "images").iterdir())
    staging = sorted(path.name for path in (root / "staging").iterdir())
    store.close()
    return {
        "digests": [adapter.digest for adapter in adapters],
        "sizes": sizes,
        "sources": sources,
        "images": images,
        "staging": staging,
    }


def die_everywhere(root: Path) -> None:
    """Print one line for each point of death: what was found after it, until none is left."""

    prepare(root / "prepared")
    number = 0
    while True:
        number += 1
        place = root / str(number)
        shutil.copytree(root / "prepared", place)
        death, _ = forked(lambda place=place, number=number: replace_dying_at(place, number))
        status, found = forked(lambda place=place: inspected(place))
        assert status == 0, "the store could not be inspected"
        print(json.dumps({"death": death, "found": json.loads(found)}), flush=True)  # noqa: T201
        if death == 0:
            return


def replace_telling(root: Path, number: int, tell: Callable[[bytes], object]) -> None:
    """Replace the adapter and delete it. Tells b"!" before the file operation of that number,
    b"p" when the upload was acknowledged and b"d" when the deletion was."""
    store = opened(root)
    undo = counting(lambda n, _: tell(b"!") if n == number else None)
    new_files().put(store)
    tell(b"p")
    store.delete("acme", "one")
    tell(b"d")
    undo()
    store.close()


def killed_around(root: Path, number: int, delay_s: float) -> str:
    """What a process told before it was killed, `delay_s` after it came to that operation."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        replace_telling(root, number, lambda text: os.write(writing, text))
        os._exit(0)
    os.close(writing)
    told = b""
    while b"!" not in told and (some := os.read(reading, 1)):
        told += some
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as pipe:
        return (told + pipe.read()).decode()


def die_often(root: Path, num_points: int = 12, rounds: int = 20) -> None:
    """Print one line for each death: what was acknowledged before it and found after it.

    The kills fall from 0 to 3 ms behind each point, so also inside SQLite's own writing.
    """
    num_calls = 0

    def count(number: int, _: bool) -> None:
        nonlocal num_calls
        num_calls = number

    store = opened(root / "counted")
    old_files().put(store)
    undo = counting(count)
    new_files().put(store)
    store.delete("acme", "one")
    undo()
    store.close()
    prepare(root / "prepared")
    place = root / "place"
    for point in range(num_points):
        number = 1 + point * (num_calls - 1) // (num_points - 1)
        for turn in range(rounds):
            shutil.copytree(root / "prepared", place)
            told = killed_around(place, number, 0.003 * turn / (rounds - 1))
            status, found = forked(lambda: inspected(place))
            assert status == 0, "the store could not be inspected"
            line = {"point": number, "told": told, "found": json.loads(found)}
            print(json.dumps(line), flush=True)  # noqa: T201
            shutil.rmtree(place)


def opened_sharing(root: Path) -> AdapterStore:
    """A server's own, over the database and the shared directory beside it."""
    return AdapterStore(
        root,
        BASE,
        dtype=torch.float32,
        limits=Limits(),
        host_bytes=1 << 20,
        database=Database.at_path(root.parent / "motet.sqlite3"),
        origin=Origin(f"file://{root.parent}/shared"),
    )


def die_sharing(root: Path) -> None:
    """Upload what is shared already, and die before each file operation in turn. Prints a line for
    each: how it ended, and whether what others read was whole then."""

    def put_first() -> None:
        store = opened_sharing(root / "first")
        new_files().put(store)
        store.close()

    status, _ = forked(put_first)
    assert status == 0, "there is nothing shared"
    (directory,) = (root / "shared" / "sources").iterdir()
    shared = Source(directory, directory.name)

    def put_dying_at(number: int) -> None:
        store = opened_sharing(root / "second")
        counting(lambda n, _: os.kill(os.getpid(), signal.SIGKILL) if n == number else None)
        new_files().put(store, "other")

    number, death = 0, -1
    while death:
        number += 1
        death, _ = forked(partial(put_dying_at, number))
        line = {"death": death, "intact": shared.is_intact()}
        print(json.dumps(line), flush=True)  # noqa: T201


def prepare(root: Path) -> None:
    """A store with the old adapter, made by another process."""

    def make() -> None:
        store = opened(root)
        old_files().put(store)
        store.close()

    status, _ = forked(make)
    assert status == 0, "the store could not be prepared"


if __name__ == "__main__":
    torch.set_num_threads(1)
    verbs = {"put": put_and_wait, "die": die_everywhere, "often": die_often, "share": die_sharing}
    verbs[sys.argv[1]](Path(sys.argv[2]))
