"""What loading the model's modules leaves running."""

import os
import subprocess
import sys

import pytest

COUNT_THREADS = """
import os
import time
from motet.cli.model_work import load

def threads_left():
    # the spinner's own thread may take a moment to end
    for _ in range(200):
        if len(os.listdir("/proc/self/task")) == 1:
            break
        time.sleep(0.01)
    return len(os.listdir("/proc/self/task"))

load("serving")
loaded = threads_left()
from tokenizers import Tokenizer, models
Tokenizer(models.BPE({"a": 0}, [])).encode_batch(["a"] * 1000)
print(loaded, threads_left())
"""


@pytest.mark.slow
def test_libraries_start_no_threads_of_their_own() -> None:
    given = ("OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    environment = {name: value for name, value in os.environ.items() if name not in given}
    command = [sys.executable, "-c", COUNT_THREADS]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [b"1", b"1"]
