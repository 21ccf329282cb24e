"""transformers + PEFT. It has no server: batches go to its process and are timed in there, without
HTTP, tokenizer or scheduler, which is to its advantage."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.serving.child import Child, plain_environment
from benchmarks.serving.system import Batch, Refused, Run
from benchmarks.serving.workplace import Workplace

# Run by its path: with this folder's parent among the import paths, kernels.py there would be
# taken for Hugging Face's package of that name.
_WORKER = Path(__file__).with_name("peft_worker.py")


class PeftSystem:
    def __init__(self, place: Workplace, threads: int, kind: Literal["nf4", "bf16"]) -> None:
        self.name = {"nf4": "PEFT on bitsandbytes NF4", "bf16": "PEFT on bf16"}[kind]
        self._place = place
        self._threads = threads
        self._kind = kind
        self._child: Child | None = None

    def start(self, adapters: Sequence[str]) -> str:
        command = [
            *(sys.executable, str(_WORKER), self._kind, str(self._place.model)),
            *(str(self._place.adapter(name)) for name in adapters),
            *("--threads", str(self._threads)),
        ]
        environment = plain_environment() | {
            "OMP_NUM_THREADS": str(self._threads),
            "HF_HUB_OFFLINE": "1",
        }
        log = self._place.log(f"peft-{self._kind}")
        self._child = Child(command, log, environment, piped=True)
        with self._child.running():
            return str(self._answer()["ready"])

    def run(self, batch: Batch) -> Run:
        assert self._child is not None
        sent = {
            "prompts": batch.prompts,
            "adapters": batch.adapters,
            "num_tokens": batch.num_tokens,
        }
        with self._child.running():
            self._child.stdin.write(json.dumps(sent).encode() + b"\n")
            self._child.stdin.flush()
            answer = self._answer()
        if "refused" in answer:
            raise Refused(answer["refused"])
        return Run(answer["num_tokens"], answer["seconds"])

    def close(self) -> None:
        if self._child is not None:
            self._child.close()

    def _answer(self) -> dict[str, Any]:
        assert self._child is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self._child.last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
