"""What loading the model's modules leaves running."""

import os
import subprocess
import sys

import pytest

COUNT_THREADS = """
import os
import sys
from motet.cli.model_work import load
load("serving")
loaded = len(os.listdir("/proc/self/task"))
from tokenizers import Tokenizer, models
Tokenizer(models.BPE({"a": 0}, [])).encode_batch(["a"] * 1000)
print(loaded, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.slow
def test_libraries_start_no_threads_of_their_own() -> None:
    given = ("OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    environment = {name: value for name, value in os.environ.items() if name not in given}
    command = [sys.executable, "-c", COUNT_THREADS]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [b"1", b"1"]
