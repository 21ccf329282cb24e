"""What both images promise. That they build and serve is shown by docker/build.sh and smoke.sh."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from motet.settings import Settings, env_name
from motet_kernels.cpu.native_build import PREBUILT

from tests.support.dockerfile import Dockerfile

ROOT = Path(__file__).parents[2]
PATHS = {"cpu": ROOT / "docker/Dockerfile.cpu", "cuda": ROOT / "docker/Dockerfile"}
KNOWN = {env_name(field) for field in Settings.model_fields}


@pytest.fixture(params=sorted(PATHS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(kind: str) -> Dockerfile:
    return Dockerfile.read(PATHS[kind])


def test_the_user_is_a_number_and_not_root(image: Dockerfile) -> None:
    """Kubernetes can't tell that a name is not root; and some clusters replace the user."""
    assert re.fullmatch(r"[1-9]\d*:0", image.last("USER"))
    assert image.last_stage[-1].name == "LABEL", "nothing is run as root after USER"


def test_everything_is_written_under_one_directory(image: Dockerfile) -> None:
    data = image.last("VOLUME")
    places = [
        "HOME",
        "MOTET_DATA_DIR",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
    ]
    for name in places:
        assert Path(image.environment[name]).is_relative_to(data), name
    made = next(e.value for e in image.last_stage if e.name == "RUN" and e.value.endswith(data))
    assert made.split() == ["install", "-d", "-o", "10001", "-g", "0", "-m", "0770", data]


def test_it_serves_and_says_whether_it_is_well(image: Dockerfile) -> None:
    assert image.words("ENTRYPOINT") == ["motet"]
    assert image.words("CMD") == ["serve"]
    assert image.last("EXPOSE") == str(Settings.model_fields["port"].default)
    assert image.last("HEALTHCHECK").endswith('CMD ["motet-health"]')


def test_its_variables_are_settings(image: Dockerfile, kind: str) -> None:
    """The server refuses a MOTET_ variable that is none."""
    assert {name for name in image.environment if name.startswith("MOTET_")} <= KNOWN
    assert image.environment["MOTET_DEVICE"] == kind
    assert image.environment["MOTET_HOST"] == "0.0.0.0"


def test_the_base_can_be_swapped(image: Dockerfile) -> None:
    assert image.instructions[0] == ("ARG", "BASE=python:3.11-slim")
    stages = [each.value.split()[0] for each in image.instructions if each.name == "FROM"]
    assert set(stages) == {"${BASE}", "dependencies"}


def test_the_native_kernels_come_without_their_compiler(image: Dockerfile, kind: str) -> None:
    made = "RUN", "PYTHONPATH=kernels python3 -m motet_kernels.cpu.build --prebuilt"
    wheel = next(e for e in image.instructions if e.value.startswith("pip wheel"))
    assert image.instructions.index(made) < image.instructions.index(wheel)
    assert made not in image.last_stage
    compiler = any("apt-get" in each.value for each in image.last_stage)
    assert compiler is (kind == "cuda"), "Triton alone needs one when the server runs"
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert f"cpu/{PREBUILT.name}/*" in data["package-data"]["motet_kernels"]


def test_both_differ_only_in_what_a_gpu_needs() -> None:
    def lines(path: Path) -> set[str]:
        return {f"{e.name} {e.value}" for e in Dockerfile.read(path).instructions}

    cpu, cuda = lines(PATHS["cpu"]), lines(PATHS["cuda"])
    for different in cpu ^ cuda:
        assert re.search(r"TORCH_BUILD=|triton|requirements.py|apt-get|ENV HOME|LABEL", different)


def test_what_is_copied_is_let_in() -> None:
    """.dockerignore names what may enter; a COPY of something else would fail."""
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for path in PATHS.values():
        for source in Dockerfile.read(path).copied_from_context:
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in allowed), source


@pytest.mark.parametrize("name", ["base.sh", "build.sh", "smoke.sh", "health.py"])
def test_what_is_started_by_its_path_can_be(name: str) -> None:
    assert (ROOT / "docker" / name).stat().st_mode & 0o111
    if name.endswith(".sh"):
        subprocess.run(["sh", "-n", f"docker/{name}"], cwd=ROOT, check=True)
