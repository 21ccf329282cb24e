"""A source file of the project, as the rules about files look at it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

PACKAGE_FOLDERS = ("kernels", "adapters_store", "server")
FOLDERS = (*PACKAGE_FOLDERS, "benchmarks", "docker", "tests")

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class Import(NamedTuple):
    line: int
    target: str
    names: tuple[str, ...]
    """What a `from` import names; empty for a plain `import`."""
    is_late: bool
    """Inside a function or class, or made by a call, rather than at the top of the file."""

    def modules(self, known: frozenset[str]) -> set[str]:
        """The modules of `known`, or else the one named, that this import reaches."""
        below = {f"{self.target}.{name}" for name in self.names} & known
        return below if below and len(below) == len(self.names) else below | {self.target}


@dataclass(frozen=True)
class SourceFile:
    path: str
    """Relative to the repository, with forward slashes."""
    text: str

    @property
    def module(self) -> str:
        """The name it is imported by; for a file outside the packages, its path with dots."""
        parts = list(Path(self.path).with_suffix("").parts)
        if parts[0] in PACKAGE_FOLDERS:
            parts = parts[1:]
        if parts[-1] == "__init__":
            parts = parts[:-1]
        return ".".join(parts)

    @property
    def is_packaged(self) -> bool:
        return self.path.split("/")[0] in PACKAGE_FOLDERS

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    def imports(self) -> Iterator[Import]:
        """Every import, wherever it stands; a relative one has a target that starts with dots."""
        late = {
            id(node)
            for scope in ast.walk(self.tree)
            if isinstance(scope, _SCOPES)
            for node in ast.walk(scope)
        }
        for node in ast.walk(self.tree):
            is_late = id(node) in late
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(node.lineno, alias.name, (), is_late)
            elif isinstance(node, ast.ImportFrom):
                names = tuple(alias.name for alias in node.names)
                yield Import(node.lineno, "." * node.level + (node.module or ""), names, is_late)
            elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
                yield Import(node.lineno, _called(node), (), True)


def source_files(root: Path, suffix: str = ".py") -> list[SourceFile]:
    """All files under `root` that are the project's own and end in `suffix`."""
    return [
        SourceFile(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((root / folder).rglob(f"*{suffix}"))
    ]


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""
