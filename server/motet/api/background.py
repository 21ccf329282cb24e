"""Threads for what nobody waits for as impatiently as for the next token."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from motet.engine.cores import compute_with


def background_threads(number: int, name: str, niceness: int) -> ThreadPoolExecutor:
    """Each computes on one core at most, and behind the engine's threads: at a niceness of 15 on
    what those leave, at 5 on a quarter of a core that they want."""
    return ThreadPoolExecutor(number, name, initializer=_stand_back, initargs=(niceness,))


def _stand_back(niceness: int) -> None:
    compute_with(1)
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
