"""How the GPU kernels are written: what each says of itself, how long it is, how it is launched."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import motet_kernels.gpu
import pytest

FOLDER = Path(motet_kernels.gpu.__path__[0])
MOST_LINES = 120
MOST_BY_HAND = 12  # parameters of a launch that are named there one by one


def is_jitted(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(each).startswith("triton.jit") for each in function.decorator_list)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function that Triton compiles, and the source of its file."""
    for file in sorted(FOLDER.glob("*.py")):
        source = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and is_jitted(node):
                yield source, node


def by_hand(call: ast.Call) -> int:
    positional = sum(not isinstance(each, ast.Starred) for each in call.args)
    return positional + sum(each.arg is not None for each in call.keywords)


def launches(source: str) -> Iterator[tuple[str, int]]:
    """kernel[grid](...): the kernel's name, and how many parameters are passed by hand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            name = ast.unparse(node.func.value)
            if name.endswith("_kernel"):
                yield name, by_hand(node)


def kernels() -> dict[str, tuple[str, ast.FunctionDef]]:
    return {node.name: (source, node) for source, node in functions()
            if node.name.endswith("_kernel")}  # fmt: skip


@pytest.mark.parametrize("name", kernels())
def test_kernel_states_what_it_computes_on_which_grid_of_which_tensors(name: str) -> None:
    source, node = kernels()[name]
    text = ast.get_docstring(node) or ""
    assert "=" in text, "a line that says what is computed"
    assert "Grid (" in text
    lines = source.splitlines()
    for argument in node.args.args:
        is_pointer = argument.annotation is None and not is_number(node, argument.arg)
        if is_pointer:
            assert "[" in lines[argument.lineno - 1].partition("#")[2], f"{argument.arg}'s shape"


def is_number(node: ast.FunctionDef, name: str) -> bool:
    """Whether an argument is a size, a stride or a factor and not a tensor."""
    sizes = ("num_tokens", "out_features", "in_features", "vocab", "scale", "softcap", "window",
             "window_split")  # fmt: skip
    return name in sizes or name.endswith("_stride")


def test_every_function_says_what_it_does_and_ends_before_the_reader_does() -> None:
    found = list(functions())
    assert len(found) > 30
    for _, node in found:
        assert ast.get_docstring(node) or len(node.body) <= 3, node.name
        assert node.end_lineno is not None
        assert node.end_lineno - node.lineno < MOST_LINES, node.name


def test_no_launch_names_more_than_a_dozen_parameters() -> None:
    files = [FOLDER.joinpath(name) for name in sorted(each.name for each in FOLDER.glob("*.py"))]
    found = [each for file in files for each in launches(file.read_text(encoding="utf-8"))]
    assert {name for name, _ in found} == set(kernels())
    assert [each for each in found if each[1] > MOST_BY_HAND] == []


def test_parameters_are_counted() -> None:
    source = "tile_kernel[grid](x, y, *tensors, n, BLOCK=4, **constants, num_warps=2)"
    assert list(launches(source)) == [("tile_kernel", 5)]
