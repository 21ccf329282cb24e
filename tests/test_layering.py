"""The rules of the house, as docs/architecture.md draws it. Each is shown able to fail."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distribution
from pathlib import Path

import pytest
from transformers.utils.import_utils import KERNELS_MIN_VERSION

from tests.support.source_file import FOLDERS, SourceFile, source_files

ROOT = Path(__file__).parents[1]

# Which parts each part may import, besides itself and what is not ours.
PLAIN = {"motet.settings", "motet.errors"}
LEAVES = {"motet_kernels", "motet_adapters", "motet_database"}
ALLOWED: dict[str, set[str]] = {
    "motet_kernels": set(),
    "motet_database": set(),
    "motet_adapters": {"motet_database", "motet_kernels"},
    "motet": set(),
    "motet.errors": set(),
    "motet.settings": {"motet.errors"},
    "motet.blobs": PLAIN | {"motet_adapters"},
    "motet.engine": PLAIN | LEAVES | {"motet.blobs"},
    "motet.database": PLAIN | {"motet_database"},
    "motet.tenancy": PLAIN | {"motet_database"},
    "motet.api": PLAIN
    | {"motet.blobs", "motet.tenancy", "motet.engine", "motet_adapters", "motet_database"},
    "motet.demo": PLAIN | {"motet.engine"},
    "motet.cli": PLAIN
    | LEAVES
    | {"motet.database", "motet.tenancy", "motet.engine", "motet.api", "motet.demo"},
}

# Files that may import late, each for a reason no import at the top can serve.
MAY_IMPORT_LATE = {
    "kernels/motet_kernels/dispatch.py",  # Triton is not there on every machine
    "server/motet/cli/model_work.py",  # `motet --help` must not wait for torch
}

MAX_LINES = 350
VAGUE_NAMES = {"util", "utils", "common", "helper", "helpers", "misc"}
PACKAGES = {"motet", "motet_adapters", "motet_database", "motet_kernels"}

# Home directories and named temporary files: they exist on one machine only.
MACHINE_PATH = re.compile(
    r"(?<![\w.~-])/(?:root|work|home/[\w-]+|Users/[\w-]+|tmp/[A-Za-z][\w-]*)\b/?"
)

Rule = Callable[[SourceFile], list[str]]


def part_of(module: str) -> str:
    names = module.split(".")
    return ".".join(names[:2]) if names[0] == "motet" else names[0]


def imports_are_allowed(file: SourceFile) -> list[str]:
    part = part_of(file.module)
    if not file.is_packaged:
        return []
    if part not in ALLOWED:
        return [f"{file.path}: {part} is a new part; give it a line in ALLOWED"]
    known = frozenset(ALLOWED)
    reached = {
        (found.line, part_of(module)) for found in file.imports() for module in found.modules(known)
    }
    return [
        f"{file.path}:{line}: {part} imports {target}"
        for line, target in sorted(reached)
        if target.split(".")[0] in PACKAGES and target not in ALLOWED[part] | {part}
    ]


def imports_are_at_the_top(file: SourceFile) -> list[str]:
    if not file.is_packaged or file.path in MAY_IMPORT_LATE:
        return []
    return [
        f"{file.path}:{found.line}: imports {found.target} late; move it to the top"
        for found in file.imports()
        if found.is_late
    ]


def imports_are_spelled_out(file: SourceFile) -> list[str]:
    return [
        f"{file.path}:{found.line}: write whole module names, and name what is imported"
        for found in file.imports()
        if "*" in found.names or found.target.startswith(".")
    ]


def file_is_short(file: SourceFile) -> list[str]:
    num_lines = len(file.text.splitlines())
    if file.path.startswith("tests/") or num_lines <= MAX_LINES:
        return []
    return [f"{file.path}: {num_lines} lines; look for a second noun"]


def names_say_something(file: SourceFile) -> list[str]:
    vague = VAGUE_NAMES & set(Path(file.path).with_suffix("").parts)
    classes = [node for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef)]
    return [f"{file.path}: {name} names nothing" for name in sorted(vague)] + [
        f"{file.path}:{node.lineno}: {node.name}: what is it, when it does not manage?"
        for node in classes
        if node.name.endswith("Manager")
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one cycle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def module_graph(files: Iterable[SourceFile]) -> dict[str, set[str]]:
    by_module = {file.module: file for file in files}
    known = frozenset(by_module)
    return {
        module: {m for found in file.imports() for m in found.modules(known)} & known - {module}
        for module, file in by_module.items()
    }


RULES: tuple[Rule, ...] = (
    imports_are_allowed,
    imports_are_at_the_top,
    imports_are_spelled_out,
    file_is_short,
    names_say_something,
)


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps(rule: Rule) -> None:
    files = source_files(ROOT)
    assert {file.path.split("/")[0] for file in files} >= {"kernels", "adapters_store", "server"}
    assert [complaint for file in files for complaint in rule(file)] == []


@pytest.mark.parametrize("suffix", [".cpp", ".cu", ".h", ".sh"])
def test_files_in_other_languages_are_short_too(suffix: str) -> None:
    assert [
        complaint for file in source_files(ROOT, suffix) for complaint in file_is_short(file)
    ] == []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert cycle(ALLOWED) == []
    assert cycle(module_graph(f for f in source_files(ROOT) if f.is_packaged)) == []


ENGINE, CLI = "server/motet/engine/x.py", "server/motet/cli/x.py"


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (imports_are_allowed, ENGINE, "import motet.api.sse"),
        (imports_are_allowed, ENGINE, "from motet import api"),
        (imports_are_allowed, ENGINE, "from motet import errors, api"),
        (imports_are_allowed, ENGINE, "def f():\n    from motet.tenancy import keys"),
        (imports_are_allowed, "server/motet/api/x.py", "from motet_kernels import Ops"),
        (imports_are_allowed, "server/motet/tenancy/x.py", "from motet_adapters import Limits"),
        (imports_are_allowed, "server/motet/errors.py", "from motet.settings import Settings"),
        (imports_are_allowed, "kernels/motet_kernels/x.py", "import motet_adapters.image"),
        (imports_are_allowed, "kernels/motet_kernels/x.py", "import motet_database"),
        (imports_are_allowed, "adapters_store/motet_database/x.py", "import motet_adapters.image"),
        (imports_are_allowed, "adapters_store/motet_adapters/x.py", "import motet.errors"),
        (imports_are_allowed, "server/motet/novelty/x.py", ""),
        (imports_are_at_the_top, CLI, "def f():\n    import torch"),
        (imports_are_at_the_top, CLI, "async def f():\n    if x:\n        from torch import nn"),
        (imports_are_at_the_top, CLI, "class A:\n    import torch"),
        (imports_are_at_the_top, CLI, "import importlib\nm = importlib.import_module('torch')"),
        (imports_are_at_the_top, CLI, "f = lambda: __import__('torch')"),
        (imports_are_spelled_out, "tests/x.py", "from torch import *"),
        (imports_are_spelled_out, ENGINE, "from . import request"),
        (imports_are_spelled_out, ENGINE, "from ..api import sse"),
        (file_is_short, "benchmarks/x.py", "x = 1\n" * (MAX_LINES + 1)),
        (names_say_something, "tests/support/helpers.py", ""),
        (names_say_something, "server/motet/utils/text.py", ""),
        (names_say_something, ENGINE, "class SlotManager:\n    pass"),
    ],
)
def test_a_file_that_breaks_a_rule_is_found(rule: Rule, path: str, text: str) -> None:
    assert rule(SourceFile(path, text))


def test_a_file_that_keeps_the_rules_is_left_alone() -> None:
    text = "import torch\nfrom motet import errors\nfrom motet_kernels import Ops\nx = 1\n" * 50
    file = SourceFile(ENGINE, text)
    assert [rule(file) for rule in RULES] == [[]] * len(RULES)


def test_a_cycle_is_found() -> None:
    files = [
        SourceFile("server/motet/engine/a.py", "from motet.engine import b"),
        SourceFile("server/motet/engine/b.py", "import motet.engine.c"),
        SourceFile("server/motet/engine/c.py", "from motet.engine.a import A"),
    ]
    assert set(cycle(module_graph(files))) == {f"motet.engine.{name}" for name in "abc"}
    assert cycle(module_graph(files[:2])) == []


# Names that are not ours: Hugging Face's `kernels`, and what anybody calls their own folders.


def folders_that_are_packages(root: Path) -> list[str]:
    """Folders at the top that Python, run from there, would import as a regular package."""
    return [folder for folder in FOLDERS if (root / folder / "__init__.py").exists()]


def transformers_finds_kernels(path: Path) -> bool:
    """Whether transformers, with `path` to import from, believes that it has HF's `kernels`."""
    code = "from transformers.utils import is_kernels_available as found; print(found())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()[-1] == "True"


def test_only_names_of_our_own_are_installed() -> None:
    top_level = distribution("motet").read_text("top_level.txt")
    assert top_level is not None
    assert set(top_level.split()) == PACKAGES


def test_no_folder_at_the_top_is_a_package(tmp_path: Path) -> None:
    assert folders_that_are_packages(ROOT) == []
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    assert folders_that_are_packages(tmp_path) == ["kernels"]


def test_transformers_does_not_take_our_folder_for_another_package(tmp_path: Path) -> None:
    """Run from the repository, where `kernels` is a folder, it must see what it sees elsewhere."""
    assert transformers_finds_kernels(ROOT) == transformers_finds_kernels(tmp_path)
    info = tmp_path / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    assert transformers_finds_kernels(tmp_path)


def committed_texts() -> Iterable[tuple[str, str]]:
    """(path, text) of every file git knows that is text."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("needs a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in data:
            yield name, data.decode("utf-8", errors="replace")


def machine_paths(text: str) -> list[str]:
    return [found.group() for found in MACHINE_PATH.finditer(text)]


def test_no_committed_file_names_a_path_of_one_machine() -> None:
    named = {name: machine_paths(text) for name, text in committed_texts()}
    assert {name: paths for name, paths in named.items() if paths} == {}


# Put together below, or this file would be found by its own rule.
PLACES = ("root", "work", "home/ann", "Users/ann", "tmp/notes")


@pytest.mark.parametrize("place", PLACES)
def test_a_path_of_one_machine_is_found(place: str) -> None:
    for text in (f"open('/{place}/x')", f"see /{place}/x.", f"(/{place})"):
        assert machine_paths(text)


@pytest.mark.parametrize("place", PLACES)
def test_a_path_of_any_machine_is_left_alone(place: str) -> None:
    for text in (f"~/{place}/x", f"./{place}/x", f"$HOME/{place}", f"https://host/{place}/x"):
        assert machine_paths(text) == []
    assert machine_paths("/data/x, tmpfs: /tmp, TMPDIR=/tmp/") == []
