"""What /metrics tells: the engine's counters, read at the scrape, and how requests fared.

Label values are few and fixed: never a tenant, an adapter or anything else a client can choose.
"""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from motet.api.kernels import KernelsInUse
from motet.engine.stats import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_MAX_ADAPTERS_LABEL = 16
_TTFT_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_GAP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """One server's metrics in a registry of their own. Safe to use from any thread."""

    def __init__(self, stats: Callable[[], EngineStats], kernels: KernelsInUse) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(stats))
        Info(
            "motet_kernels",
            "The kernels in use; reason: what keeps faster ones from serving, or empty.",
            registry=self._registry,
        ).info({"implementation": kernels.implementation, "reason": kernels.reason or ""})
        self._replies = Counter(
            "motet_http_replies",
            "HTTP replies; status 0: the client left before there was one.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._finished = Counter(
            "motet_finished",
            "Choices that ended, by the reason why.",
            ("endpoint", "reason"),
            registry=self._registry,
        )
        self._first_token = Histogram(
            "motet_time_to_first_token_seconds",
            "From the submission of a choice to its first token.",
            ("endpoint",),
            buckets=_TTFT_S,
            registry=self._registry,
        )
        self._gap = Histogram(
            "motet_inter_token_seconds",
            "Between two tokens of one choice.",
            ("endpoint",),
            buckets=_GAP_S,
            registry=self._registry,
        )
        self._foreign_answers = Counter(
            "motet_foreign_answers",
            "Answers withheld because they came of another adapter than was leased; must be 0.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_reply(self, method: str, route: str, status: int | None) -> None:
        known = method if method in _METHODS else "other"
        self._replies.labels(known, route, str(status or 0)).inc()

    def watch(self, endpoint: str) -> "Watch":
        """Follows the choices of one request from now on."""
        return Watch(
            self._first_token.labels(endpoint),
            self._gap.labels(endpoint),
            lambda reason: self._finished.labels(endpoint, reason).inc(),
            self._foreign_answers,
        )


class Watch:
    """The times of one request's tokens. Belongs to the event loop."""

    def __init__(
        self,
        first_token: Histogram,
        gap: Histogram,
        count_end: Callable[[str], None],
        foreign_answers: Counter,
    ) -> None:
        self._first_token = first_token
        self._gap = gap
        self._count_end = count_end
        self._foreign_answers = foreign_answers
        self._started = time.monotonic()
        self._last: dict[str, float] = {}

    def token(self, request_id: str, at: float) -> None:
        """at: when it came out of the engine, in monotonic seconds."""
        last = self._last.get(request_id)
        if last is None:
            self._first_token.observe(at - self._started)
        else:
            self._gap.observe(at - last)
        self._last[request_id] = at

    def finished(self, reason: str) -> None:
        self._count_end(reason)

    def foreign_answer(self) -> None:
        self._foreign_answers.inc()


class _EngineCollector(Collector):
    """Reads the engine once per scrape."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def describe(self) -> Iterator[Metric]:
        """Nothing: registration must not ask an engine that may not run yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield from _gauges(stats)
        yield from _counters(stats)
        yield _steps_by_adapters(stats)


def _gauges(stats: EngineStats) -> Iterator[Metric]:
    arena = stats.arena
    used = 1 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0
    for name, text, value in (
        ("requests_running", "Sequences that hold KV blocks.", stats.num_running),
        ("requests_waiting", "Sequences waiting for a place.", stats.num_waiting),
        ("kv_cache_usage_ratio", "Share of the KV cache's blocks in use, 0 to 1.", used),
        ("kv_cache_blocks", "Blocks of the KV cache.", stats.num_blocks),
        (
            "prefix_cache_blocks",
            "Blocks without a sequence, kept for the prompts in them until they are wanted.",
            stats.num_cached_blocks,
        ),
        ("adapters_resident", "Adapters on the device.", arena.resident),
        ("adapters_loading", "Adapters on their way to the device.", arena.loading),
        ("adapters_pinned", "Adapters on the device and in use.", arena.pinned),
        ("adapter_bytes_used", "Device memory that adapters hold.", arena.used_bytes),
        ("adapter_basis_bytes", "Of those, what adapters share.", arena.basis_bytes),
        ("adapter_bytes_budget", "Device memory set aside for adapters.", arena.budget_bytes),
    ):
        yield GaugeMetricFamily(f"motet_{name}", text, value)


def _counters(stats: EngineStats) -> Iterator[Metric]:
    arena = stats.arena
    for name, text, value in (
        ("steps", "Forward passes.", stats.num_steps),
        (
            "mixed_steps",
            "Forward passes that held a base row and rows of at least 3 different adapters.",
            stats.num_mixed_steps,
        ),
        ("failed_steps", "Forward passes that raised.", stats.num_failed_steps),
        (
            "prompt_tokens",
            "Prompt tokens computed, again after preemption.",
            stats.num_prompt_tokens,
        ),
        (
            "cached_prompt_tokens",
            "Prompt tokens found in the KV cache and not computed.",
            stats.num_cached_tokens,
        ),
        (
            "virtual_tokens",
            "Virtual tokens of adapters computed; once for all requests while they are kept.",
            stats.num_virtual_tokens,
        ),
        ("generated_tokens", "Tokens generated.", stats.num_generated_tokens),
        ("preemptions", "Sequences that gave their blocks up.", stats.num_preemptions),
        (
            "isolation_violations",
            "Rows whose slot held another adapter than they were admitted with; must be 0.",
            stats.num_isolation_violations,
        ),
        ("adapter_loads", "Adapters brought to the device.", arena.num_loads),
        ("adapter_load_failures", "Adapters that could not be brought.", arena.num_failures),
        ("adapter_evictions", "Adapters that made room on the device.", arena.num_evictions),
        ("adapter_hits", "Adapters wanted and found on the device.", arena.num_hits),
    ):
        yield CounterMetricFamily(f"motet_{name}", text, value)


def _steps_by_adapters(stats: EngineStats) -> Metric:
    """Labelled with the exact number up to a bound, beyond it with the bound and a plus."""
    family = CounterMetricFamily(
        "motet_steps_by_adapters",
        "Forward passes by how many different adapters they held.",
        labels=("adapters",),
    )
    totals: dict[str, int] = {}
    for num_adapters, num_steps in sorted(stats.steps_by_num_adapters.items()):
        exact = num_adapters < _MAX_ADAPTERS_LABEL
        label = str(num_adapters) if exact else f"{_MAX_ADAPTERS_LABEL}+"
        totals[label] = totals.get(label, 0) + num_steps
    for label, total in totals.items():
        family.add_metric((label,), total)
    return family
