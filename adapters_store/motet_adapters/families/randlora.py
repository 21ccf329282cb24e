"""RandLoRA (arXiv 2502.00987): many products of random matrices, each scaled. Lossy."""

from collections.abc import Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import MAX_ALPHA, key, linears_of, product_keys
from motet_adapters.families.update_sites import lossy_family, lossy_rank
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_A, _B = "base_model.randlora_A", "base_model.randlora_B"


def convert_randlora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = lossy_rank(fields, limits)
    r = fields.integer(fields.get("r", 32), "r", 1, limits.max_rank)
    scale = fields.positive(fields.get("randlora_alpha", 640), "randlora_alpha", MAX_ALPHA) / r
    if fields.get("save_projection", True) is False:
        raise AdapterRefused(
            "save_projection is false; the random matrices are not drawn again. Save with true.",
            "save_projection",
        )
    modules = linears_of(fields, tensors, base)
    # Of the largest outputs and the largest inputs, which may be of different modules.
    largest = [max(sizes) for sizes in zip(*map(base.shape, modules), strict=True)]
    whole_a = (r, 1, min(largest))
    whole_b = (max(largest), -(-min(largest) // r), r)

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        num_bases, cut = -(-min(n, k) // r), min(rank, n, k)
        names = {
            _A: whole_a,
            _B: whole_b,
            key(module, "randlora_lambda"): (r, num_bases),
            key(module, "randlora_gamma"): (num_bases, min(n, k)),
        }

        def update(read: Read) -> Tensor:
            return randlora_update((n, k), *map(read, names)) * scale

        parts = {"a": PartSpec((cut, k)), "bt": PartSpec((cut, n))}
        return SitePlan(module, names, parts, lambda _read: {}, update=update)

    copies = {key(module, suffix) for module in modules for suffix in ("randlora_A", "randlora_B")}
    return AdapterPlan("randlora", tuple(map(site, modules)), ignored=frozenset(copies))


def randlora_update(
    shape: tuple[int, int], a: Tensor, b: Tensor, strengths: Tensor, gains: Tensor
) -> Tensor:
    """sum_j B_j diag(lambda_j) A diag(gamma_j), transposed where the inputs are more.

    shape (N, K), m the smaller and M the larger; a [r, 1, m' >= m], b [M' >= M, n' >= n, r],
    strengths (lambda) [r, n], gains (gamma) [n, m].
    """
    num_bases, smaller = gains.shape
    scaled = (strengths[:, :, None] * a[:, :, :smaller] * gains[None]).flatten(0, 1)
    # PEFT 0.21 flattens the two in different orders, base within rank here and rank within base
    # there; the update is what it makes of that.
    update = b[: max(shape), :num_bases].flatten(1) @ scaled
    return update if shape[1] == smaller else update.t()


RANDLORA = lossy_family(
    "randlora",
    "RandLoRA",
    "y = W x + alpha / r sum_j B_j diag(l_j) A diag(g_j) x + b",
    "the sum",
    "https://arxiv.org/abs/2502.00987",
    product_keys(
        {"r", "bias", "randlora_alpha", "save_projection"},
        {"projection_prng_key", "sparse", "very_sparse", "randlora_dropout"},
    ),
    convert_randlora,
)
