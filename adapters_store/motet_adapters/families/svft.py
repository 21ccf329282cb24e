"""SVFT (arXiv 2405.19597): sparse changes of the weight between its singular vectors.

The tensors of an SVFTLayer of github.com/VijayLingam95/SVFT as safetensors, named
MODULE.svft_layer.s, .gate and so on, with the config of the layers: {"peft_type": "SVFT",
"target_modules": [...], "pattern": "banded", "off_diag": 0, ...}.
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys
from motet_adapters.families.cores import (
    COLUMNS,
    VALUES,
    banded_columns,
    columns_part,
    core_parts,
    sparse_core,
)
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, BasisPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import linears_of
from motet_adapters.families.svd_basis import DIAGONAL, VECTORS_IN, VECTORS_OUT, svd_basis
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor

_PATTERNS = ("banded", "random", "top_k")


def plan_svft(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    pattern = fields.get("pattern", "banded")
    if pattern not in _PATTERNS:
        raise AdapterRefused(f"pattern={quoted(pattern)} is none of {_PATTERNS}.", "pattern")
    off_diagonals = fields.integer(fields.get("off_diag", 0), "off_diag", 0, limits.max_rank)
    band = off_diagonals if pattern == "banded" else None
    sites, bases = [], {}
    for module in linears_of(fields, tensors, base):
        rank, prefix = min(base.shape(module)), _prefix(module, tensors)
        if off_diagonals >= rank:
            raise AdapterRefused(
                f"off_diag is {off_diagonals}, which {module} with its {rank} singular values has "
                "no room for. Correct it to what was trained.",
                "off_diag",
            )
        bases[module], columns = _basis(base, module, prefix, tensors, band)
        rows_name, columns_name = f"{prefix}s_row", f"{prefix}s_col"
        has_places = rows_name in tensors or columns_name in tensors or band is None
        count = rank * (2 * off_diagonals + 1) - off_diagonals * (off_diagonals + 1)
        wanted: dict[str, tuple[int, ...]] = {f"{prefix}s": (count,), f"{prefix}gate": (1,)}
        places = frozenset({rows_name, columns_name}) if has_places else frozenset[str]()
        width = _width(off_diagonals, is_banded=band is not None, rank=rank)
        shared = {"a": VECTORS_IN, "bt": VECTORS_OUT}
        parts = core_parts(rank, width)
        if columns is not None:
            shared[COLUMNS] = columns
            del parts[COLUMNS]
        sites.append(
            SitePlan(
                module,
                wanted | dict.fromkeys(sorted(places), (count,)),
                parts,
                partial(_lower, prefix, rank, off_diagonals, band, has_places, module),
                bases={part: (module, tensor) for part, tensor in shared.items()},
                integers=places,
            )
        )
    return AdapterPlan("svft", tuple(sites), bases, _copies(tensors))


def banded_places(rank: int, off_diagonals: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of a band's entries, row by row, as the repository stores them."""
    rows = torch.arange(rank)[:, None].expand(rank, 2 * off_diagonals + 1)
    columns = rows + torch.arange(-off_diagonals, off_diagonals + 1)
    inside = (columns >= 0) & (columns < rank)
    return rows[inside], columns[inside]


def _prefix(module: str, tensors: Mapping[str, StoredTensor]) -> str:
    plain = f"{module}.svft_layer."
    return plain if f"{plain}s" in tensors else f"base_model.model.{plain}"


def _width(off_diagonals: int, *, is_banded: bool, rank: int) -> int:
    """Entries of a row that there is room for. Rows of a random pattern have more or fewer than
    their mean, and no tensor is read before the image is laid out."""
    mean = 2 * off_diagonals + 1
    return mean if is_banded else min(rank, mean + math.ceil(8 * math.sqrt(mean)) + 8)


def _basis(
    base: BaseWeights,
    module: str,
    prefix: str,
    tensors: Mapping[str, StoredTensor],
    band: int | None,
) -> tuple[BasisPlan, str | None]:
    """U and V of the file where it has them (a diagonal needs none: signs cancel), and for a band,
    which is the same for all tenants, its core's columns and their name in the basis."""
    u, v = f"{prefix}u", f"{prefix}v"
    if u not in tensors and v not in tensors:
        if band == 0:
            return svd_basis(base, module), DIAGONAL
        raise AdapterRefused(
            f"{quoted(u)} and {quoted(v)} are missing. Singular vectors have a sign that differs "
            "between machines, and entries off the diagonal depend on it: upload those that the "
            "adapter was trained with.",
            WEIGHTS_FILE,
        )
    (n, k), rank = base.shape(module), min(base.shape(module))
    parts = {VECTORS_IN: PartSpec((rank, k)), VECTORS_OUT: PartSpec((rank, n))}
    if band is not None:
        parts[COLUMNS] = columns_part(rank, 2 * band + 1)

    def make(read: Read) -> dict[str, Tensor]:
        made = {VECTORS_IN: read(v), VECTORS_OUT: read(u).t()}
        return made if band is None else made | {COLUMNS: banded_columns(rank, band)}

    plan = BasisPlan(parts, make, tensors={u: (n, rank), v: (rank, k)})
    return plan, None if band is None else COLUMNS


def _copies(tensors: Mapping[str, StoredTensor]) -> frozenset[str]:
    """The singular values, of which the layer keeps a copy: they are in the weight."""
    return frozenset(
        name
        for name in tensors
        if name.endswith((".svft_layer.s_pre", ".svft_layer.s_pre_row", ".svft_layer.s_pre_col"))
    )


def _lower(
    prefix: str,
    rank: int,
    off_diagonals: int,
    band: int | None,
    has_places: bool,
    module: str,
    read: Read,
) -> dict[str, Tensor]:
    if has_places:
        rows, columns = read(f"{prefix}s_row"), read(f"{prefix}s_col")
    else:
        rows, columns = banded_places(rank, off_diagonals)
    places = torch.cat([rows, columns])
    if int(places.min()) < 0 or int(places.max()) >= rank:
        raise AdapterRefused(
            f"s_row or s_col of {module} points outside of its {rank} singular values.",
            WEIGHTS_FILE,
        )
    values = read(f"{prefix}s") * torch.sigmoid(read(f"{prefix}gate"))
    if band is not None:
        return {VALUES: _banded_values(rows, columns, values, rank, band, module)}
    width = _width(off_diagonals, is_banded=False, rank=rank)
    core = sparse_core(rows, columns, values, rank, width)
    if core is None:
        raise AdapterRefused(
            f"A row of the sparse matrix of {module} has more than {width} entries. Train with "
            "the pattern 'banded', or with a larger off_diag.",
            WEIGHTS_FILE,
        )
    return core


def _banded_values(
    rows: Tensor, columns: Tensor, values: Tensor, rank: int, band: int, module: str
) -> Tensor:
    """[R, 2 band + 1], by `banded_columns`; entries at one place add up."""
    offsets = columns - rows
    if int(offsets.abs().max()) > band:
        raise AdapterRefused(
            f"s_row or s_col of {module} points outside of the band that off_diag={band} says. "
            "Correct pattern and off_diag to what was trained.",
            "off_diag",
        )
    core = torch.zeros(rank, 2 * band + 1)
    return core.index_put_((rows, offsets + band), values, accumulate=True)


SVFT = Family(
    name="svft",
    title="SVFT",
    peft_type="SVFT",
    status="served",
    formula="y = U (diag(s) + sigmoid(gate) M) V^T x + b, M sparse",
    lowering="U and V^T, of the original weight or the file, are a basis that tenants share; the "
    "core is sigmoid(gate) M",
    rank_after="min(N, K), shared",
    memory="the entries of M a module, their columns too unless banded; min(N, K) (K + N) once",
    paper_url="https://arxiv.org/abs/2405.19597",
    keys=ConfigKeys(
        served=TARGETS | {"pattern", "off_diag"},
        harmless=COMMON,
        refused={
            "rank": "truncated SVFT drops a part of the weight; train with rank=None",
            "fill_orthonormal": "random vectors in place of singular ones drop a part of the "
            "weight; train without fill_orthonormal",
        },
    ),
    plan=plan_svft,
)
