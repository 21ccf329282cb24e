import re
from collections.abc import Iterator
from dataclasses import asdict

import httpx
import pytest
from motet.api.kernels import KernelsInUse
from motet.api.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.live_server import BASE_NAME, KERNELS, LiveServer
from tests.support.scripted_engine import ScriptedEngine


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client("acme") as client:
        yield client


def scrape(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    reply = client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def value(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str):
    return samples.get((f"motet_{name}", tuple(sorted(labels.items()))))


def test_the_engine_is_read_at_the_scrape(client: httpx.Client) -> None:
    samples = scrape(client)
    assert value(samples, "kv_cache_usage_ratio") == 0.25
    assert value(samples, "kv_cache_blocks") == 100
    assert value(samples, "prefix_cache_blocks") == 5
    assert value(samples, "cached_prompt_tokens_total") == 17
    assert value(samples, "virtual_tokens_total") == 19
    assert value(samples, "mixed_steps_total") == 3
    assert value(samples, "isolation_violations_total") == 0
    assert value(samples, "adapters_resident") == 2
    assert value(samples, "adapter_loads_total") == 9
    assert value(samples, "adapter_evictions_total") == 7
    assert value(samples, "adapter_bytes_budget") == 8192
    # Exact up to 15 adapters in a pass, 16 and more together: the number of series is bounded.
    by_adapters = {
        number: value(samples, "steps_by_adapters_total", adapters=number)
        for number in ("0", "4", "16", "16+", "40")
    }
    assert by_adapters == {"0": 5, "4": 7, "16": None, "16+": 3, "40": None}
    steps = value(samples, "steps_total")
    assert steps is not None
    client.post("/v1/completions", json={"model": BASE_NAME, "prompt": "x", "max_tokens": 5})
    assert value(scrape(client), "steps_total") >= steps + 5


def test_the_kernels_in_use_are_told(client: httpx.Client) -> None:
    labels = {"implementation": KERNELS.implementation, "reason": KERNELS.reason}
    assert value(scrape(client), "kernels_info", **labels) == 1
    assert client.get("/health").json() == {"status": "ok", "kernels": asdict(KERNELS)}
    best = Metrics(ScriptedEngine().stats, KernelsInUse("cpu-native (avx2)")).text().decode()
    assert 'motet_kernels_info{implementation="cpu-native (avx2)",reason=""} 1.0' in best


def test_requests_are_counted_and_timed(client: httpx.Client) -> None:
    before = scrape(client)
    body = {"model": "sql", "prompt": "x", "max_tokens": 5, "n": 2}
    client.post("/v1/completions", json=body)
    client.post("/v1/completions", json={**body, "n": 99})
    after = scrape(client)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - (value(before, name, **labels) or 0)

    assert grown("time_to_first_token_seconds_count", endpoint="completions") == 2
    assert grown("inter_token_seconds_count", endpoint="completions") == 8
    assert grown("finished_total", endpoint="completions", reason="length") == 2
    route = {"method": "POST", "route": "/v1/completions"}
    assert grown("http_replies_total", **route, status="200") == 1
    assert grown("http_replies_total", **route, status="400") == 1


def test_labels_hold_nothing_a_client_chooses(client: httpx.Client) -> None:
    client.request("BREW", "/v1/adapters/secret-name")
    client.get("/v1/adapters/secret-name")
    client.get("/v1/models/secret-name")
    client.get("/secret-name")
    text = client.get("/metrics").text
    for secret in ("secret-name", "BREW", "acme", "french", "sql", BASE_NAME):
        assert secret not in text
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert {"/v1/adapters/{name}", "/v1/models/{model:path}", "unmatched"} <= routes
    assert 'method="other"' in text
