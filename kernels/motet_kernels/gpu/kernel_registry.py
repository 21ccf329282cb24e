"""Every kernel, as every tuning table would have it launched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from motet_kernels.gpu import specs_attention, specs_linear, specs_lowrank, specs_sampling
from motet_kernels.gpu.architectures import Architecture
from motet_kernels.gpu.kernel_specs import KernelSpec
from motet_kernels.gpu.tuning import TuningTable
from motet_kernels.gpu.tuning_files import packaged_tables
from motet_kernels.gpu.tuning_formula import predicted

Listing = Callable[[TuningTable], Iterable[KernelSpec]]

LISTINGS: tuple[Listing, ...] = (
    specs_linear.specs,
    specs_lowrank.specs,
    specs_attention.specs,
    specs_sampling.specs,
)


def all_specs(
    architecture: Architecture, listings: Sequence[Listing] = LISTINGS
) -> list[KernelSpec]:
    """What there is to compile for an architecture: by its formula and every table of the package.

    Each compilation comes once, whichever tables ask for it. Raises ValueError if two that differ
    share a name.
    """
    tables = [predicted(architecture)]
    tables += [table for table in packaged_tables() if table.architecture == architecture.name]
    found: dict[str, KernelSpec] = {}
    for spec in (spec for table in tables for listing in listings for spec in listing(table)):
        if found.setdefault(spec.name, spec) != spec:
            raise ValueError(f"two specs that differ are both called {spec.name!r}")
    return [spec for spec in found.values() if architecture.backend in spec.backends]
