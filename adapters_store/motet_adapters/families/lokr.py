"""LoKr (LyCORIS, arXiv 2309.14859): the Kronecker product of two small matrices."""

from collections.abc import Mapping

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.family import Family
from motet_adapters.families.lycoris_config import LYCORIS_HARMLESS, LYCORIS_SERVED, lycoris
from motet_adapters.families.plan import AdapterPlan, SitePlan
from motet_adapters.families.product_sites import linears_of, product_keys, product_site
from motet_adapters.families.update_sites import FOLDS_EXACTLY, lossy_rank, update_site
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor


def plan_lokr(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    plan = _plan(fields, tensors, base, limits, cut_to=None)
    largest = max(plan.sites, key=_rank)
    if _rank(largest) > limits.max_rank:
        raise AdapterRefused(
            f"This LoKr folds to rank {_rank(largest)} on {largest.path}, over the limit of "
            f"{limits.max_rank}. Upload it with lossy=true (and rank=...) to have it cut; the "
            "reply tells what is lost.",
            "r",
        )
    return plan


def convert_lokr(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    plan = _plan(fields, tensors, base, limits, cut_to=lossy_rank(fields, limits))
    if all(site.update is None for site in plan.sites):
        raise AdapterRefused(f"At this rank LoKr {FOLDS_EXACTLY}", "lossy")
    return plan


def _rank(site: SitePlan) -> int:
    return site.rank or 0


def _plan(
    fields: Fields,
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
    limits: Limits,
    *,
    cut_to: int | None,
) -> AdapterPlan:
    settings = lycoris(fields, limits)
    both = fields.flag("decompose_both")
    value = fields.get("decompose_factor", -1)
    factor = fields.integer(value, "decompose_factor", -1, 1 << 30)

    def site(module: str) -> SitePlan:
        (n, k), rank = base.shape(module), settings.rank_of(module)
        (out_1, out_2), (in_1, in_2) = divided(n, factor), divided(k, factor)
        # PEFT 0.21 takes the products apart where that is smaller.
        is_whole_1 = not (both and rank < max(out_1, in_1) / 2)
        is_whole_2 = not rank < max(out_2, in_2) / 2
        shapes = _shapes("lokr_w1", out_1, in_1, None if is_whole_1 else rank)
        shapes |= _shapes("lokr_w2", out_2, in_2, None if is_whole_2 else rank)
        scale = settings.scale_of(module)

        def factors(*stored: Tensor) -> tuple[Tensor, Tensor]:
            split = 1 if is_whole_1 else 2
            return lokr_factors(scale, stored[:split], stored[split:])

        rank_1 = min(out_1, in_1) if is_whole_1 else rank
        rank_2 = min(out_2, in_2) if is_whole_2 else rank
        if cut_to is not None and rank_1 * rank_2 > cut_to:

            def update(*stored: Tensor) -> Tensor:
                a, b = factors(*stored)
                return b @ a

            return update_site(base, module, cut_to, shapes, update)
        return product_site(base, module, rank_1 * rank_2, shapes, factors)

    return AdapterPlan("lokr", tuple(site(module) for module in linears_of(fields, tensors, base)))


def lokr_factors(
    scale: float, first: tuple[Tensor, ...], second: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """scale (w1 (x) w2) as B A of rank r1 r2, (x) the Kronecker product.

    Each of the two is (whole [m, n],) of rank min(m, n), or (left [m, r], right [r, n]).
    (b1 a1) (x) (b2 a2) = (b1 (x) b2) (a1 (x) a2).
    """
    (b_1, a_1), (b_2, a_2) = _factored(first), _factored(second)
    return torch.kron(a_1.contiguous(), a_2.contiguous()), torch.kron(b_1, b_2) * scale


def divided(dimension: int, factor: int) -> tuple[int, int]:
    """A dimension as a product m n with m <= n (or m = factor), as PEFT 0.21 divides it.

    factor -1: near the square root; else m is at most the factor.
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else factor
    m, n = 1, dimension
    for candidate in range(2, dimension + 1):
        if dimension % candidate:
            continue
        if m >= n or candidate + dimension // candidate > m + n or candidate > limit:
            break
        m, n = candidate, dimension // candidate
    return min(m, n), max(m, n)


def _shapes(name: str, rows: int, columns: int, rank: int | None) -> dict[str, tuple[int, ...]]:
    if rank is None:
        return {name: (rows, columns)}
    return {f"{name}_a": (rows, rank), f"{name}_b": (rank, columns)}


def _factored(stored: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    if len(stored) == 2:
        return stored[0], stored[1]
    (whole,) = stored
    rows, columns = whole.shape
    return (torch.eye(rows), whole) if rows <= columns else (whole, torch.eye(columns))


LOKR = Family(
    name="lokr",
    title="LoKr",
    peft_type="LOKR",
    status="served",
    formula="y = W x + b + alpha / r (w1 (x) w2) x, (x) the Kronecker product",
    lowering="a = a1 (x) a2, b = alpha / r b1 (x) b2 with w1 = b1 a1, w2 = b2 a2",
    rank_after="rank(w1) rank(w2); over the limit: lossy",
    memory="rank (K + N)",
    paper_url="https://arxiv.org/abs/2309.14859",
    keys=product_keys(
        LYCORIS_SERVED | {"decompose_both", "decompose_factor"},
        LYCORIS_HARMLESS | {"rank_dropout_scale"},
    ),
    plan=plan_lokr,
    convert=convert_lokr,
)
