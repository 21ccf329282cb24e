"""OFT (arXiv 2306.07280) and BOFT (arXiv 2311.06243): the inputs rotated in blocks. Lossy."""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.plan import AdapterPlan, SitePlan
from motet_adapters.families.product_sites import linears_of, product_keys
from motet_adapters.families.update_sites import (
    lossy_family,
    lossy_rank,
    stored_shape,
    update_site,
)
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_MAX_TERMS = 64


def convert_oft(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = lossy_rank(fields, limits)
    if fields.flag("coft"):
        raise AdapterRefused("coft is not converted: train with coft=False.", "coft")
    terms = None
    if fields.get("use_cayley_neumann", True) is not False:
        name = "num_cayley_neumann_terms"
        terms = fields.integer(fields.get(name, 5), name, 1, _MAX_TERMS)

    def site(module: str) -> SitePlan:
        blocks, entries = stored_shape(tensors, module, "oft_R.weight", 2)
        size = (1 + math.isqrt(1 + 8 * entries)) // 2
        if size * (size - 1) // 2 != entries:
            size = base.shape(module)[1] + 1  # of no triangle: refused as of no block
        _require_blocks(base, module, blocks, size, shared=fields.flag("block_share"))

        def update(stored: Tensor) -> Tensor:
            return rotated_update(base.weight(module), cayley(skew(stored, size), terms))

        return update_site(base, module, rank, {"oft_R.weight": (blocks, entries)}, update)

    return AdapterPlan("oft", tuple(map(site, linears_of(fields, tensors, base))))


def convert_boft(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = lossy_rank(fields, limits)

    def site(module: str) -> SitePlan:
        n = base.shape(module)[0]
        factors, blocks, size, _ = stored_shape(tensors, module, "boft_R", 4)
        if factors != 1:
            raise AdapterRefused(
                f"{module} has {factors} butterfly factors; one is converted. Train with "
                "boft_n_butterfly_factor=1.",
                "boft_n_butterfly_factor",
            )
        _require_blocks(base, module, blocks, size, shared=False)
        shapes = {"boft_R": (1, blocks, size, size), "boft_s": (n, 1)}
        return update_site(base, module, rank, shapes, partial(boft_update, base, module))

    return AdapterPlan("boft", tuple(map(site, linears_of(fields, tensors, base))))


def skew(entries: Tensor, size: int) -> Tensor:
    """entries [n, b (b - 1) / 2], of the upper triangles -> skew-symmetric [n, b, b], b = size."""
    matrix = torch.zeros(len(entries), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    matrix[:, rows, columns] = entries
    return matrix - matrix.transpose(1, 2)


def cayley(q: Tensor, terms: int | None) -> Tensor:
    """Rotations of skew-symmetric q [n, b, b]: Cayley's, or of the Neumann series' first terms,
    which is of the other sign, as PEFT 0.21 has both."""
    eye = torch.eye(q.shape[1]).expand_as(q)
    if terms is None:
        rotation: Tensor = torch.linalg.solve(eye + q, eye - q, left=False)
        return rotation
    if terms == 1:
        return eye
    if terms == 2:
        return eye + 2 * q
    power = q @ q
    rotation = eye + 2 * q + 2 * power
    for _ in range(3, terms - 1):
        power = power @ q
        rotation = rotation + 2 * power
    return rotation + power @ q


def rotated_update(weight: Tensor, rotation: Tensor) -> Tensor:
    """W R^T - W for x -> x R in blocks of inputs. weight [N, K], rotation [n or 1, b, b]."""
    blocks = weight.reshape(len(weight), -1, rotation.shape[1])
    rotation = rotation.expand(blocks.shape[1], -1, -1)
    return torch.einsum("nrc,rkc->nrk", blocks, rotation).flatten(1) - weight


def boft_update(base: BaseWeights, module: str, stored: Tensor, scale: Tensor) -> Tensor:
    """scale * (W R^T) - W. stored [1, n, b, b], scale [N, 1]."""
    weight = base.weight(module)
    q = 0.5 * (stored[0] - stored[0].transpose(1, 2))
    rotated = rotated_update(weight, cayley(q, None)) + weight
    return scale * rotated - weight


def _require_blocks(
    base: BaseWeights, module: str, blocks: int, size: int, *, shared: bool
) -> None:
    inputs = base.shape(module)[1]
    if inputs % size if shared else blocks * size != inputs:
        raise AdapterRefused(
            f"{blocks} blocks of {size} do not make the {inputs} inputs of {module}. Upload what "
            "PEFT 0.21 saves, for the base the adapter was trained on.",
            WEIGHTS_FILE,
        )


OFT = lossy_family(
    "oft",
    "OFT",
    "y = W diag(R_1, ..., R_n)^T x + b, R_i a rotation",
    "W R^T - W against the weight that runs",
    "https://arxiv.org/abs/2306.07280",
    product_keys(
        {"bias", "coft", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms"},
        {"r", "oft_block_size", "module_dropout", "eps"},
    ),
    convert_oft,
)

BOFT = lossy_family(
    "boft",
    "BOFT",
    "y = s * (W diag(R_1, ..., R_n)^T x) + b, R_i a rotation",
    "s * (W R^T) - W against the weight that runs",
    "https://arxiv.org/abs/2311.06243",
    product_keys(
        {"bias"},
        {"boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout"},
    ),
    convert_boft,
)
