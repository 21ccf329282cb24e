"""What docker/build.sh tells buildah, and what runs inside a build."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
complaint = runpy.run_path(str(ROOT / "docker/torch_build.py"))["complaint"]


def build(tmp_path: Path, *images: str, **variables: str) -> tuple[int, list[list[str]]]:
    """The exit code of build.sh and the words of each call of buildah."""
    fake, log = tmp_path / "buildah", tmp_path / "log"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {shlex.quote(str(log))}\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["docker/build.sh", *images], cwd=ROOT, env=environment, check=False)
    calls = log.read_text().splitlines() if log.exists() else []
    return done.returncode, [call.split() for call in calls]


def test_both_images_are_built(tmp_path: Path) -> None:
    code, calls = build(tmp_path)
    assert code == 0
    builds = [call for call in calls if call[0] == "build"]
    assert [call[call.index("--tag") + 1] for call in builds] == [
        "localhost/motet:cpu",
        "localhost/motet:gpu",
    ]
    for call in builds:
        assert call[call.index("--format") + 1] == "docker"  # the other has no health check
        assert f"VERSION={PROJECT['version']}" in call


def test_variables_reach_the_build(tmp_path: Path) -> None:
    code, calls = build(
        tmp_path,
        "cpu",
        BASE="localhost/motet-base",
        NAME="here/motet",
        TORCH_INDEX="file:///srv/index",
        TORCH_BUILD="any",
        PIP_CONF="/etc/pip.conf",
        BUILD_ARGS="--volume /srv/a:/srv/a:ro --layers",
        STORAGE_DRIVER="vfs",
    )
    assert code == 0
    assert calls[0][:3] == ["--storage-driver", "vfs", "build"]
    given = {"BASE=localhost/motet-base", "TORCH_INDEX=file:///srv/index", "TORCH_BUILD=any"}
    assert given | {"id=pip,src=/etc/pip.conf", "/srv/a:/srv/a:ro", "--layers"} <= set(calls[0])
    assert "here/motet:cpu" in calls[0]


def test_an_unknown_image_is_refused(tmp_path: Path) -> None:
    assert build(tmp_path, "tpu") == (1, [])


def printed_requirements(*flags: str) -> list[str]:
    script = [sys.executable, "docker/requirements.py", *flags]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_requirements_are_the_projects() -> None:
    assert printed_requirements() == PROJECT["dependencies"]
    (torch,) = printed_requirements("--only", "torch")
    assert re.match(r"torch\b", torch)
    left = printed_requirements("--without", "triton")
    assert set(PROJECT["dependencies"]) - set(left) == {
        entry for entry in PROJECT["dependencies"] if entry.startswith("triton")
    }


def test_a_requirement_that_is_none_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        printed_requirements("--only", "tensorflow")


@pytest.mark.parametrize(
    ("wanted", "cuda", "fine"),
    [
        ("cpu", None, True),
        ("cuda", "13.0", True),
        ("any", None, True),
        ("any", "13.0", True),
        ("cpu", "13.0", False),
        ("cuda", None, False),
        ("gpu", "13.0", False),
    ],
)
def test_only_the_wanted_build_of_torch_is_taken(wanted: str, cuda: str | None, fine: bool) -> None:
    assert (complaint(wanted, "2.13.0", cuda) is None) == fine
