"""A process that serves the scripted engine, to be sent real signals.

Run as: python tests/support/serve_scripted.py DIRECTORY STEP_S [MOTET_* settings in the
environment]. Prints the URL once it listens. SIGUSR1 makes the engine crash.
"""

import signal
import sys
import threading
from pathlib import Path

import torch
from motet.api.app import build_app
from motet.api.kernels import KernelsInUse
from motet.api.server import bind, run_server
from motet.api.service import ServedModel
from motet.database import open_database
from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy
from motet_adapters import AdapterStore, Limits
from motet_database import ChangeFeed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.base_weights import RandomBase
from tests.support.byte_tokenizer import ByteTokenizer
from tests.support.scripted_engine import ScriptedEngine


def main() -> None:
    directory, step_s = Path(sys.argv[1]), float(sys.argv[2])
    settings = Settings.load({"data_dir": directory, "port": 0})
    base = RandomBase.llama()
    database = open_database(settings)
    feed = ChangeFeed(database)
    tenancy = Tenancy(database, feed, settings)
    store = AdapterStore(
        directory / "adapters",
        base,
        dtype=torch.float32,
        limits=Limits(),
        host_bytes=1 << 20,
        database=database,
        changes=feed,
        require_room=tenancy.quotas.require_room,
    )
    feed.start()
    engine = ScriptedEngine(text="x" * 1000, step_s=step_s)
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=engine.crash).start())
    model = ServedModel("base", base.fingerprint, 0)
    kernels = KernelsInUse("scripted")
    app = build_app(settings, engine, store, tenancy, ByteTokenizer(), model, kernels)
    (bound,) = bind(settings)
    with bound:
        run_server(app, settings, [bound], lambda url: print(url, flush=True))  # noqa: T201
    feed.close()
    store.close()
    database.close()
    print("ended well", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
