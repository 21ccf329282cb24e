"""A profile, as a table for people and as JSON for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from motet.cli.terminal import say
from motet.engine.load import Load
from motet.engine.profile import Breakdown, Part, Profile
from motet.engine.runtime import Runtime

LABELS: Mapping[Part, str] = {
    "attention": "attention",
    "linears": "linears",
    "adapters": "adapters",
    "lm_head": "lm_head",
    "small": "norms, rotary, gate",
    "sampling": "sampling",
    "python": "Python, scheduling",
}


@dataclass(frozen=True)
class ProfileReport:
    """A profile and all it was taken of."""

    load: Load
    rounds: int
    runtime: Runtime
    profile: Profile

    def print(self, console: Console) -> None:
        for line in (self._load(), self._machine()):
            say(console, line)
        console.print(self._table())
        for note in self._notes():
            say(console, note)

    def as_dict(self) -> dict[str, Any]:
        runtime = self.runtime
        return {
            "motet": version("motet"),
            "base": runtime.model_name,
            "kernels": runtime.kernels.implementation,
            "device": runtime.device.type,
            "dtype": _dtype(runtime),
            "threads": torch.get_num_threads(),
            "layers": runtime.num_layers,
            "one_call_layers": runtime.num_one_call_layers,
            "load": asdict(self.load),
            "rounds": self.rounds,
            "generated_tokens_per_s": round(self.profile.generated_per_s, 1),
            "prompt_steps": _kind(self.profile.prompt),
            "decode_steps": _kind(self.profile.decode),
        }

    def _load(self) -> str:
        load = self.load
        where = "to the base"
        if load.num_adapters:
            where = f"over {_count(load.num_adapters, 'adapter')} of rank {load.rank}"
        return (
            f"{_count(load.num_requests, 'request')} {where}, prompts of {load.prompt_len} tokens, "
            f"{load.num_tokens} generated, temperature {load.temperature:g}; "
            f"the fastest of {self.rounds}: {self.profile.generated_per_s:.1f} tokens/s"
        )

    def _machine(self) -> str:
        runtime = self.runtime
        return (
            f"{runtime.model_name} (NF4), {runtime.kernels.implementation} kernels, "
            f"{_count(torch.get_num_threads(), 'thread')}, {_dtype(runtime)}; "
            f"{runtime.num_one_call_layers} of {runtime.num_layers} layers run in one call"
        )

    def _table(self) -> Table:
        kinds = (self.profile.prompt, self.profile.decode)
        table = Table(show_footer=True)
        table.add_column("", "whole step")
        for name, kind in zip(("prompt steps", "decode steps"), kinds, strict=True):
            table.add_column(f"{name}\nms", f"{kind.step_ms:.2f}", justify="right")
            table.add_column("\n%", "100.0", justify="right")
        for part, label in LABELS.items():
            figures = [
                text
                for kind in kinds
                for text in (f"{kind.parts_ms[part]:.2f}", f"{kind.percent(part):.1f}")
            ]
            table.add_row(label, *figures)
        return table

    def _notes(self) -> list[str]:
        notes = [
            f"Prompt steps hold prompt tokens: {_tokens(self.profile.prompt)}.",
            f"Decode steps hold none: {_tokens(self.profile.decode)}.",
        ]
        if self.load.num_adapters:
            notes.append(
                "Adapters: A x, where layers run in one call, and what the linears take longer "
                "than in the same steps on the base alone."
            )
        if self.runtime.num_one_call_layers < self.runtime.num_layers:
            notes.append(
                "The norms, rotary embeddings and gates of layers that do not run in one call are "
                "transformers' modules and count as Python."
            )
        return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tokens(kind: Breakdown) -> str:
    return (
        f"{_count(kind.num_steps, 'step')}, "
        f"{kind.num_prompt_tokens / kind.num_steps:.1f} prompt and "
        f"{kind.num_generated_tokens / kind.num_steps:.1f} generated tokens a step, "
        f"{kind.tokens_per_s:.1f} tokens/s together"
    )


def _kind(kind: Breakdown) -> dict[str, Any]:
    return {
        "steps": kind.num_steps,
        "prompt_tokens": kind.num_prompt_tokens,
        "generated_tokens": kind.num_generated_tokens,
        "tokens_per_s": round(kind.tokens_per_s, 1),
        "ms_per_step": round(kind.step_ms, 4),
        "parts": {
            part: {"ms": round(ms, 4), "percent": round(kind.percent(part), 2)}
            for part, ms in kind.parts_ms.items()
        },
    }


def _dtype(runtime: Runtime) -> str:
    return str(runtime.dtype).removeprefix("torch.")
