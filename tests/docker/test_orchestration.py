"""compose.yaml and kubernetes.yaml, held to the server's settings and to each other's promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from motet.settings import Settings, env_name

from tests.support.dockerfile import Dockerfile

ROOT = Path(__file__).parents[2]
KNOWN = {env_name(field) for field in Settings.model_fields}
IMAGE = Dockerfile.read(ROOT / "docker/Dockerfile")
PORT = int(IMAGE.last("EXPOSE"))
DATA = IMAGE.last("VOLUME")
DRAIN_S = Settings.model_fields["drain_timeout_s"].default
AFTER_DRAIN_S = 10  # docs/operations.md: what a supervisor should allow on top

Yaml = dict[str, Any]


@pytest.fixture(params=["cpu", "gpu"])
def service(request: pytest.FixtureRequest) -> Yaml:
    services: Yaml = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert set(services) == {"cpu", "gpu"}
    found: Yaml = services[request.param]
    return found


@pytest.fixture(scope="module")
def objects() -> dict[str, Yaml]:
    documents = yaml.safe_load_all((ROOT / "docker/kubernetes.yaml").read_text())
    return {document["kind"]: document["spec"] for document in documents}


@pytest.fixture(scope="module")
def pod(objects: dict[str, Yaml]) -> Yaml:
    found: Yaml = objects["Deployment"]["template"]["spec"]
    return found


def test_compose_confines_the_server(service: Yaml) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=1g"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"] == [f"data:{DATA}"]
    assert all(re.fullmatch(rf"127\.0\.0\.1:.+:{PORT}", port) for port in service["ports"])


def test_compose_lets_the_server_drain(service: Yaml) -> None:
    assert float(service["stop_grace_period"].removesuffix("s")) >= DRAIN_S + AFTER_DRAIN_S
    assert service["init"] is True
    assert service["healthcheck"]["test"] == ["CMD", "motet-health"]


def test_compose_passes_on_settings_that_exist(service: Yaml) -> None:
    assert {name for name in service["environment"] if name.startswith("MOTET_")} <= KNOWN


def test_compose_builds_what_is_here(service: Yaml) -> None:
    build = service["build"]
    context = (ROOT / "docker" / build["context"]).resolve()
    assert (context / build["dockerfile"]).is_file()
    names = [e.value.partition("=")[0] for e in IMAGE.instructions if e.name == "ARG"]
    assert set(build["args"]) <= set(names)


def test_compose_reserves_a_gpu_for_that_service_alone() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["cpu"]


def test_kubernetes_confines_every_container(pod: Yaml) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == IMAGE.last("USER")
    for container in (*pod["initContainers"], *pod["containers"]):
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == [DATA, "/tmp"]


def test_kubernetes_sets_no_variable_of_its_own(pod: Yaml) -> None:
    """A Service called motet would put MOTET_PORT=tcp://... into every pod."""
    assert pod["enableServiceLinks"] is False
    (server,) = pod["containers"]
    assert {entry["name"] for entry in server["env"]} <= KNOWN


def test_kubernetes_lets_the_server_drain(pod: Yaml) -> None:
    (server,) = pod["containers"]
    wait_s = float(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] >= wait_s + DRAIN_S + AFTER_DRAIN_S
    assert pod["shareProcessNamespace"] is True


def test_kubernetes_probes_what_the_server_answers(pod: Yaml, objects: dict[str, Yaml]) -> None:
    (server,) = pod["containers"]
    assert server["ports"] == [{"name": "http", "containerPort": PORT}]
    paths = {
        kind: server[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    assert paths == {
        "startup": {"path": "/health", "port": "http"},
        "readiness": {"path": "/ready", "port": "http"},
        "liveness": {"path": "/health", "port": "http"},
    }
    assert objects["Service"]["ports"][0]["targetPort"] == "http"


def test_kubernetes_keeps_one_writer(objects: dict[str, Yaml]) -> None:
    assert objects["Deployment"]["replicas"] == 1
    assert objects["Deployment"]["strategy"] == {"type": "Recreate"}
    assert objects["PersistentVolumeClaim"]["accessModes"] == ["ReadWriteOnce"]


def test_kubernetes_selects_its_own_pods(objects: dict[str, Yaml]) -> None:
    labels = objects["Deployment"]["template"]["metadata"]["labels"]
    assert objects["Deployment"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["selector"] == labels
    assert objects["NetworkPolicy"]["podSelector"]["matchLabels"] == labels


def test_the_guide_names_settings_that_exist() -> None:
    named = set(re.findall(r"MOTET_[A-Z_]+", (ROOT / "docs/deployment.md").read_text()))
    assert named <= KNOWN
