"""Keeping transformers' own progress bars out of the server's output."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO

from transformers.utils import logging as transformers_logging


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Inside, loading a checkpoint draws nothing.

    One bar of the GGUF reader knows no setting, so what is written to stderr is dropped as well:
    errors come as exceptions, and log handlers keep the stream they were made with.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
