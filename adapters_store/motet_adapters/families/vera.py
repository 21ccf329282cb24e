"""VeRA (arXiv 2310.11454) and PVeRA: one pair of random matrices for all modules and tenants."""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.cores import COLUMNS, VALUES, columns_part, diagonal_columns
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, BasisPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import key, linears_of, product_keys
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_BASIS = "projections"
_MAX_SEED = (1 << 63) - 1


def plan_vera(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    return _plan("vera", 1, fields, tensors, base, limits)


def plan_pvera(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    if fields.flag("sample_at_inference"):
        raise AdapterRefused(
            "sample_at_inference is set: answers would be drawn at random. Set it to false, the "
            "mean is served.",
            "sample_at_inference",
        )
    return _plan("pvera", 2, fields, tensors, base, limits)


def projections(rows: int, rank: int, shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """A [rows, K], B [N, rank], float32, as PEFT 0.21 draws them from projection_prng_key.

    shape (N, K): of the largest outputs and inputs among the targeted modules.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size: int) -> Tensor:
        # Kaiming's uniform distribution with the gain of a ReLU.
        bound = math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(size[1]))
        return torch.empty(size).uniform_(-bound, bound, generator=generator)

    return drawn(rows, shape[1]), drawn(shape[0], rank)


def _plan(
    name: str,
    halves: int,
    fields: Fields,
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
    limits: Limits,
) -> AdapterPlan:
    """halves: 2 where A and lambda_d are stored twice as high, the second half for sampling."""
    require_no_bias(fields)
    rank = fields.integer(fields.get("r", 256), "r", 1, limits.max_rank)
    seed = fields.integer(fields.get("projection_prng_key", 0), "projection_prng_key", 0, _MAX_SEED)
    is_saved = fields.get("save_projection", True) is not False
    modules = linears_of(fields, tensors, base)
    shapes = [base.shape(module) for module in modules]
    widths = sorted({k for _, k in shapes}), sorted({n for n, _ in shapes})
    largest = widths[1][-1], widths[0][-1]
    a, b = f"base_model.{name}_A", f"base_model.{name}_B"

    def make(read: Read) -> dict[str, Tensor]:
        whole_a, whole_b = (
            (read(a), read(b)) if is_saved else projections(rank * halves, rank, largest, seed)
        )
        parts = {f"a.{k}": whole_a[:rank, :k] for k in widths[0]}
        parts[COLUMNS] = diagonal_columns(rank)
        return parts | {f"bt.{n}": whole_b[:n].t() for n in widths[1]}

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        d, b = key(module, f"{name}_lambda_d"), key(module, f"{name}_lambda_b")
        return SitePlan(
            module,
            {d: (rank * halves,), b: (n,)},
            {VALUES: PartSpec((rank, 1)), "delta_gain": PartSpec((n,))},
            partial(_lower, rank, d, b),
            bases={
                "a": (_BASIS, f"a.{k}"),
                "bt": (_BASIS, f"bt.{n}"),
                COLUMNS: (_BASIS, COLUMNS),
            },
        )

    basis = BasisPlan(
        {f"a.{k}": PartSpec((rank, k)) for k in widths[0]}
        | {f"bt.{n}": PartSpec((rank, n)) for n in widths[1]}
        | {COLUMNS: columns_part(rank, 1)},
        make,
        None if is_saved else f"{name} projections r={rank} {widths} seed={seed}",
        {a: (rank * halves, largest[1]), b: (largest[0], rank)} if is_saved else {},
    )
    # PEFT draws them again and does not read those of the file.
    ignored = frozenset() if is_saved else frozenset({a, b})
    return AdapterPlan(name, tuple(map(site, modules)), {_BASIS: basis}, ignored)


def _lower(rank: int, d: str, b: str, read: Read) -> dict[str, Tensor]:
    return {VALUES: read(d)[:rank, None], "delta_gain": read(b)}


_KEYS = {"r", "bias", "projection_prng_key", "save_projection"}

VERA = Family(
    name="vera",
    title="VeRA",
    peft_type="VERA",
    status="served",
    formula="y = W x + b + lambda_b * (B diag(lambda_d) A x)",
    lowering="A and B, from the file or drawn again, are a basis that tenants share; the core is "
    "diag(lambda_d), delta_gain = lambda_b",
    rank_after="r, shared",
    memory="r + N a module; r (K + N) once for each K and N of the model",
    paper_url="https://arxiv.org/abs/2310.11454",
    keys=product_keys(_KEYS, {"vera_dropout", "d_initial"}),
    plan=plan_vera,
)

PVERA = Family(
    name="pvera",
    title="PVeRA",
    peft_type="PVERA",
    status="served",
    formula="y = W x + b + lambda_b * (B diag(mu) A x), mu the mean half of lambda_d",
    lowering="as VeRA, with the mean halves of A and lambda_d",
    rank_after="r, shared",
    memory="r + N a module; r (K + N) once for each K and N of the model",
    paper_url="https://huggingface.co/docs/peft/main/package_reference/pvera",
    keys=product_keys(
        _KEYS | {"sample_at_inference"}, {"pvera_dropout", "d_initial", "generator_seed"}
    ),
    plan=plan_pvera,
)
