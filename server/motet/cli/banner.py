"""What `motet serve` says once it listens: at most twelve lines, the last one to be pasted."""

import json
from dataclasses import dataclass

from motet_kernels import KernelReport
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from motet.cli.terminal import say

_MIB = 2**20
_GIB = 2**30


@dataclass(frozen=True)
class Facts:
    """What a running server is, as its operator wants to read it."""

    version: str
    model: str
    device: str  # with dtype
    kernels: KernelReport
    num_layers: int
    num_one_call_layers: int
    weight_bytes: int
    kv_bytes: int
    kv_tokens: int
    adapter_bytes: int
    num_adapters: int
    access: str
    url: str
    startup_s: float


@dataclass(frozen=True)
class Sample:
    """A request worth trying first."""

    model: str
    prompt: str
    key: str | None  # may be a shell variable
    chat: bool = True


def print_banner(console: Console, facts: Facts, sample: Sample) -> None:
    """At most nine facts in a panel, and one curl line outside it, free of borders and breaks."""
    table = Table.grid(padding=(0, 2))
    for label, value in _rows(facts):
        table.add_row(Text(label, style="bold"), Text(value, no_wrap=True, overflow="ellipsis"))
    console.print(Panel(table, title=f"Motet {facts.version}", expand=False))
    say(console, curl(facts.url, sample))


def curl(url: str, sample: Sample) -> str:
    """One line for a POSIX shell."""
    route = "chat/completions" if sample.chat else "completions"
    parts = [f"curl -s {url}/v1/{route}", "-H 'Content-Type: application/json'"]
    if sample.key is not None:
        parts.append(f'-H "Authorization: Bearer {sample.key}"')  # the shell fills in a variable
    quoted = json.dumps(_body(sample), ensure_ascii=False).replace("'", "'\\''")
    return " ".join([*parts, f"-d '{quoted}'"])


def _body(sample: Sample) -> dict[str, object]:
    asked: dict[str, object] = {"prompt": sample.prompt}
    if sample.chat:
        asked = {"messages": [{"role": "user", "content": sample.prompt}]}
    return {"model": sample.model, **asked, "max_tokens": 64, "temperature": 0}


def _rows(facts: Facts) -> list[tuple[str, str]]:
    memory = (
        f"{_size(facts.weight_bytes)} weights, {_size(facts.kv_bytes)} KV cache "
        f"({facts.kv_tokens:,} tokens), {_size(facts.adapter_bytes)} adapters"
    )
    return [
        ("model", f"{facts.model} (NF4)"),
        ("device", f"{facts.device}, {facts.kernels.implementation} kernels{_in_one_call(facts)}"),
        *_slower(facts.kernels),
        ("memory", memory),
        ("adapters", f"{facts.num_adapters} in the store"),
        ("access", facts.access),
        ("URL", f"{facts.url}/v1"),
        ("API", f"{facts.url}/openapi.json (and docs/api.md)"),
        ("started", f"in {facts.startup_s:.1f} s"),
    ]


def _in_one_call(facts: Facts) -> str:
    """Layers of the form the kernels run as one operation; of another form, linear by linear."""
    if not facts.num_one_call_layers:
        return ""
    if facts.num_one_call_layers == facts.num_layers:
        return ", all layers in one call"
    return f", {facts.num_one_call_layers} of {facts.num_layers} layers in one call"


def _slower(kernels: KernelReport) -> list[tuple[str, str]]:
    """What keeps faster kernels from serving, with the fix; nothing where nothing does."""
    if kernels.reason is None:
        return []
    fix = f"; {kernels.fix} and start again" if kernels.fix else ""
    return [("slower", f"torch instead of native kernels: {kernels.reason}{fix}")]


def _size(num_bytes: int) -> str:
    if num_bytes >= _GIB:
        return f"{num_bytes / _GIB:.1f} GiB"
    return f"{num_bytes / _MIB:.0f} MiB"
