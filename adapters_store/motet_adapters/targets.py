"""Which modules of the base a config targets: PEFT's rules, without running expressions.

PEFT 0.21.2 `tuners_utils.check_target_module_exists`: a name in a list matches the module of that
path and every module whose path ends in "." + name; `exclude_modules` likewise, and first;
`layers_to_transform` filters suffix matches, not exact paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from motet_adapters.patterns import suffixes

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class TargetSpec:
    """Either `names`, or `expression` (a string: "all-linear", or one that is never run)."""

    names: tuple[str, ...] = ()
    expression: str | None = None
    exclude: tuple[str, ...] = ()
    layers: frozenset[int] | None = None
    layers_pattern: tuple[str, ...] = ()
    exclude_expression: str | None = None  # in place of `exclude`

    @property
    def is_all_linear(self) -> bool:
        return self.expression is not None and self.expression.lower() == ALL_LINEAR

    @property
    def is_expression(self) -> bool:
        """Whether an expression decides: then only the file can say what was trained."""
        is_pattern = self.expression is not None and not self.is_all_linear
        return is_pattern or self.exclude_expression is not None


def targeted(spec: TargetSpec, modules: Sequence[str]) -> list[str]:
    """The targeted ones of `modules`, in their order."""
    names, exclude = frozenset(spec.names), frozenset(spec.exclude)

    def wanted(module: str) -> bool:
        if _ends_in(module, exclude):
            return False
        if spec.expression is not None or module in names:
            return True
        if not _ends_in(module, names):
            return False
        return spec.layers is None or layer_of(module, spec.layers_pattern) in spec.layers

    return [module for module in modules if wanted(module)]


def unknown_names(spec: TargetSpec, modules: Sequence[str]) -> list[str]:
    """Names of the list that stand for no module of the base at all."""
    known = {suffix for module in modules for suffix in suffixes(module)}
    return [name for name in spec.names if name not in known]


def _ends_in(module: str, names: frozenset[str]) -> bool:
    return any(suffix in names for suffix in suffixes(module))


def layer_of(module: str, patterns: tuple[str, ...] = ()) -> int | None:
    """The first number in the path, behind a name from `patterns` if given; None without one."""
    parts = module.split(".")
    if not patterns:
        # PEFT's r".*?\.[^.]*\.(?P<idx>\d+)\." wants two parts before the number.
        return next((int(part) for part in parts[2:-1] if part.isdecimal()), None)
    for pattern in patterns:
        for name, part in pairwise(parts[:-1]):
            if name == pattern and part.isdecimal():
                return int(part)
    return None
