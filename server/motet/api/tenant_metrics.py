"""/admin/metrics: what each tenant used of each adapter, since this server was started."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from motet.tenancy.tenancy import Tenancy

_SERIES = (
    ("requests", "Requests for text that were served."),
    ("prompt_tokens", "Tokens of prompts."),
    ("completion_tokens", "Tokens of answers."),
    ("uploaded_bytes", "Bytes of published adapters."),
)


def tenant_metrics(tenancy: Tenancy) -> bytes:
    """In Prometheus' text format. Labels name tenants and adapters: for the operator alone."""
    registry = CollectorRegistry()
    registry.register(_Usage(tenancy))
    return generate_latest(registry)


class _Usage(Collector):
    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy

    def collect(self) -> Iterator[Metric]:
        totals = self._tenancy.usage.totals()
        for name, text in _SERIES:
            family = CounterMetricFamily(f"motet_tenant_{name}", text, labels=("tenant", "adapter"))
            for (tenant, adapter), amount in totals.items():
                # By id: the same name may have been two tenants' one after the other.
                family.add_metric((tenant, adapter), getattr(amount, name))
            yield family
