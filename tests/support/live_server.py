"""Motet's HTTP side on a real socket of this machine, without a model behind it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch
from fastapi import FastAPI
from motet.api.app import build_app
from motet.api.kernels import KernelsInUse
from motet.api.server import Server, bind
from motet.api.service import ServedModel, Service
from motet.blobs import open_origin
from motet.database import open_database
from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy
from motet.tenancy.tenants import Tenants
from motet_adapters import AdapterStore, Limits
from motet_database import ChangeFeed

from tests.support.base_weights import RandomBase
from tests.support.byte_tokenizer import ByteTokenizer
from tests.support.scripted_engine import ScriptedEngine

BASE_NAME = "acme/Tiny-Base"
ADMIN_KEY = "an-admin-key-of-the-tests"
KERNELS = KernelsInUse("scripted", "no C++ compiler", "install g++")


@dataclass
class LiveServer:
    """One running server and everything a test wants to look at."""

    url: str
    app: FastAPI
    server: Server
    engine: ScriptedEngine
    store: AdapterStore
    tenancy: Tenancy
    base: RandomBase
    settings: Settings
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def tenants(self) -> Tenants:
        return self.tenancy.tenants

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    @property
    def address(self) -> tuple[str, int]:
        parsed = httpx.URL(self.url)
        assert parsed.port is not None
        return parsed.host, parsed.port

    def client(self, tenant: str | None = None, key: str | None = None) -> httpx.Client:
        """A client with the key of `tenant`, or with `key`, or with none."""
        key = self.keys[tenant] if tenant is not None else key
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # Reading the certificate store would take longer than the requests.
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False)


@contextmanager
def live_server(
    directory: Path,
    *,
    engine: ScriptedEngine | None = None,
    tokenizer: ByteTokenizer | None = None,
    tenants: tuple[str, ...] = ("acme", "other"),
    window_s: int = 60,
    **settings: object,
) -> Iterator[LiveServer]:
    """Serves on a free loopback port until the block ends; then nothing of it is left running.

    window_s: how long a minute of the rate limits is.
    """
    chosen = Settings(
        **{"data_dir": directory, "port": 0, "admin_key": ADMIN_KEY, **settings}  # type: ignore[arg-type]
    )
    base = RandomBase.llama()
    database = open_database(chosen)
    feed = ChangeFeed(database)
    known = Tenancy(database, feed, chosen, window_s=window_s)
    store = AdapterStore(
        directory / "adapters",
        base,
        dtype=torch.float32,
        limits=Limits(max_upload_bytes=chosen.max_upload_bytes, max_rank=chosen.max_adapter_rank),
        host_bytes=1 << 20,
        database=database,
        changes=feed,
        require_room=known.quotas.require_room,
        origin=open_origin(chosen),
    )
    keys = {name: known.tenants.create(name)[1] for name in tenants}
    engine = engine or ScriptedEngine()
    model = ServedModel(BASE_NAME, base.fingerprint, 1_700_000_000)
    app = build_app(chosen, engine, store, known, tokenizer or ByteTokenizer(), model, KERNELS)
    feed.start()
    try:
        with _running(app, chosen) as (server, url):
            yield LiveServer(url, app, server, engine, store, known, base, chosen, keys)
    finally:
        engine.stop()
        feed.close()
        store.close()
        database.close()


@contextmanager
def _running(app: FastAPI, settings: Settings) -> Iterator[tuple[Server, str]]:
    urls: list[str] = []
    listening = threading.Event()

    def note(url: str) -> None:
        urls.append(url)
        listening.set()

    server = Server(app, settings, note)
    bound = bind(settings)
    thread = threading.Thread(target=server.run, args=(bound,), name="server")
    thread.start()
    try:
        assert listening.wait(60), "the server did not start"
        yield server, urls[0]
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


def eventually(condition: object, seconds: float = 20.0) -> bool:
    """Whether `condition()` comes true within `seconds`: by far more than it should take, because
    other jobs may hold the cores."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())
