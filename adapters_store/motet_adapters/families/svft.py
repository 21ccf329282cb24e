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
from motet_adapters.families.cores import core_parts, sparse_core
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, BasisPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import linears_of
from motet_adapters.families.svd_basis import VECTORS_IN, VECTORS_OUT, svd_basis
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
    is_banded = pattern == "banded"
    sites, bases = [], {}
    for module in linears_of(fields, tensors, base):
        rank, prefix = min(base.shape(module)), _prefix(module, tensors)
        bases[module] = _basis(
            base, module, prefix, tensors, is_diagonal=is_banded and not off_diagonals
        )
        rows, columns = f"{prefix}s_row", f"{prefix}s_col"
        has_places = rows in tensors or columns in tensors or not is_banded
        count = rank * (2 * off_diagonals + 1) - off_diagonals * (off_diagonals + 1)
        wanted: dict[str, tuple[int, ...]] = {f"{prefix}s": (count,), f"{prefix}gate": (1,)}
        places = frozenset({rows, columns}) if has_places else frozenset[str]()
        width = _width(off_diagonals, is_banded=is_banded, rank=rank)
        sites.append(
            SitePlan(
                module,
                wanted | dict.fromkeys(sorted(places), (count,)),
                core_parts(rank, width),
                partial(
                    _lower, prefix, rank, width, off_diagonals if not has_places else None, module
                ),
                bases={"a": (module, VECTORS_IN), "bt": (module, VECTORS_OUT)},
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
    return min(rank, mean if is_banded else mean + math.ceil(8 * math.sqrt(mean)) + 8)


def _basis(
    base: BaseWeights,
    module: str,
    prefix: str,
    tensors: Mapping[str, StoredTensor],
    *,
    is_diagonal: bool,
) -> BasisPlan:
    """U and V of the file where it has them. A diagonal needs none: signs cancel."""
    u, v = f"{prefix}u", f"{prefix}v"
    if u not in tensors and v not in tensors:
        if is_diagonal:
            return svd_basis(base, module)
        raise AdapterRefused(
            f"{quoted(u)} and {quoted(v)} are missing. Singular vectors have a sign that differs "
            "between machines, and entries off the diagonal depend on it: upload those that the "
            "adapter was trained with.",
            WEIGHTS_FILE,
        )
    (n, k), rank = base.shape(module), min(base.shape(module))
    parts = {VECTORS_IN: PartSpec((rank, k)), VECTORS_OUT: PartSpec((rank, n))}

    def make(read: Read) -> dict[str, Tensor]:
        return {VECTORS_IN: read(v), VECTORS_OUT: read(u).t()}

    return BasisPlan(parts, make, tensors={u: (n, rank), v: (rank, k)})


def _copies(tensors: Mapping[str, StoredTensor]) -> frozenset[str]:
    """The singular values, of which the layer keeps a copy: they are in the weight."""
    return frozenset(
        name
        for name in tensors
        if name.endswith((".svft_layer.s_pre", ".svft_layer.s_pre_row", ".svft_layer.s_pre_col"))
    )


def _lower(
    prefix: str, rank: int, width: int, band: int | None, module: str, read: Read
) -> dict[str, Tensor]:
    if band is None:
        rows, columns = read(f"{prefix}s_row"), read(f"{prefix}s_col")
    else:
        rows, columns = banded_places(rank, band)
    places = torch.cat([rows, columns])
    if int(places.min()) < 0 or int(places.max()) >= rank:
        raise AdapterRefused(
            f"s_row or s_col of {module} points outside of its {rank} singular values.",
            WEIGHTS_FILE,
        )
    values = read(f"{prefix}s") * torch.sigmoid(read(f"{prefix}gate"))
    core = sparse_core(rows, columns, values, rank, width)
    if core is None:
        raise AdapterRefused(
            f"A row of the sparse matrix of {module} has more than {width} entries. Train with "
            "the pattern 'banded', or with a larger off_diag.",
            WEIGHTS_FILE,
        )
    return core


SVFT = Family(
    name="svft",
    title="SVFT",
    peft_type="SVFT",
    status="served",
    formula="y = U (diag(s) + sigmoid(gate) M) V^T x + b, M sparse",
    lowering="U and V^T, of the original weight or the file, are a basis that tenants share; the "
    "core is sigmoid(gate) M",
    rank_after="min(N, K), shared",
    memory="2 entries of M a module; min(N, K) (K + N) once",
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
