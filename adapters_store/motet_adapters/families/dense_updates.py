"""Families with a dense update of every weight: HiRA, FourierFT, C3A, SHiRA, OSF. Lossy."""

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

_MAX_SCALING = 1e9
_MAX_SEED = (1 << 63) - 1


def convert_hira(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    rank = lossy_rank(fields, limits)

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        # PEFT 0.21 reads rank_pattern and then goes by r: the file knows.
        r, _ = stored_shape(tensors, module, "hira_A", 2)

        def update(a: Tensor, b: Tensor) -> Tensor:
            return base.weight(module) * (b @ a)

        return update_site(base, module, rank, {"hira_A": (r, k), "hira_B": (n, r)}, update)

    return AdapterPlan("hira", tuple(map(site, linears_of(fields, tensors, base))))


def convert_fourierft(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = lossy_rank(fields, limits)
    scaling = fields.positive(fields.get("scaling", 150.0), "scaling", _MAX_SCALING)
    seed = fields.integer(fields.get("random_loc_seed", 777), "random_loc_seed", 0, _MAX_SEED)

    def site(module: str) -> SitePlan:
        shape = base.shape(module)
        # How many there are, n_frequency and its pattern say, and the tensor itself.
        (count,) = stored_shape(tensors, module, "fourierft_spectrum", 1)
        if count > shape[0] * shape[1]:
            raise AdapterRefused(
                f"{module} has {count} frequencies, more than its weight has entries.",
                "n_frequency",
            )
        update = partial(fourierft_update, shape, seed, scaling)
        return update_site(base, module, rank, {"fourierft_spectrum": (count,)}, update)

    return AdapterPlan("fourierft", tuple(map(site, linears_of(fields, tensors, base))))


def convert_c3a(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = lossy_rank(fields, limits)

    def site(module: str) -> SitePlan:
        (n, k), (_, _, size) = base.shape(module), stored_shape(tensors, module, "c3a_kernel", 3)
        shape = (n // size, k // size, size)
        if n % size or k % size:
            raise AdapterRefused(
                f"Blocks of {size} do not divide the shape {[n, k]} of {module}.", "block_size"
            )
        return update_site(base, module, rank, {"c3a_kernel": shape}, c3a_update)

    return AdapterPlan("c3a", tuple(map(site, linears_of(fields, tensors, base))))


def convert_shira(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    rank = lossy_rank(fields, limits)

    def site(module: str) -> SitePlan:
        (count,) = stored_shape(tensors, module, "shira_weight", 1)
        shapes = {"shira_weight": (count,), "shira_indices": (2, count)}
        update = partial(shira_update, base.shape(module), module)
        return update_site(base, module, rank, shapes, update, frozenset({"shira_indices"}))

    return AdapterPlan("shira", tuple(map(site, linears_of(fields, tensors, base))))


def convert_osf(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    rank = lossy_rank(fields, limits)
    prefix = "osf_svd_params."

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        (low,) = stored_shape(tensors, module, f"{prefix}S_low", 1)
        if low > min(n, k):
            raise AdapterRefused(
                f"{module} has {low} singular values in the file, more than its weight has.",
                WEIGHTS_FILE,
            )
        shapes = {
            f"{prefix}U_low": (n, low),
            f"{prefix}S_low": (low,),
            f"{prefix}V_low": (low, k),
        }

        def update(u: Tensor, s: Tensor, v: Tensor) -> Tensor:
            return osf_update(base.weight(module), u, s, v)

        return update_site(base, module, rank, shapes, update)

    return AdapterPlan("osf", tuple(map(site, linears_of(fields, tensors, base))))


def fourierft_update(shape: tuple[int, int], seed: int, scaling: float, spectrum: Tensor) -> Tensor:
    """scaling times the inverse transform's real part, of a spectrum [n] at a seed's places."""
    order = torch.randperm(shape[0] * shape[1], generator=torch.Generator().manual_seed(seed))
    dense = torch.zeros(shape[0] * shape[1])
    dense[order[: len(spectrum)]] = spectrum
    update: Tensor = torch.fft.ifft2(dense.view(shape)).real * scaling
    return update


def c3a_update(kernel: Tensor) -> Tensor:
    """Blocks of circulant matrices. kernel [N/b, K/b, b]."""
    outputs, inputs, size = kernel.shape
    # Column i of every block, over all blocks at once.
    columns = torch.fft.ifft(torch.eye(size))[:, None, None] * torch.fft.fft(kernel)
    blocks: Tensor = torch.fft.fft(columns).real.permute(1, 3, 2, 0)
    update = blocks.reshape(outputs * size, inputs * size) / (inputs * size)
    return update


def shira_update(shape: tuple[int, int], module: str, weight: Tensor, indices: Tensor) -> Tensor:
    """weight [n] at indices [2, n]. Raises AdapterRefused for one outside of the shape."""
    rows, columns = indices
    if int(indices.min()) < 0 or int(rows.max()) >= shape[0] or int(columns.max()) >= shape[1]:
        raise AdapterRefused(
            f"shira_indices of {module} point outside of its weight {list(shape)}.", WEIGHTS_FILE
        )
    return torch.zeros(shape).index_put_((rows, columns), weight, accumulate=True)


def osf_update(weight: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """u diag(s) v in place of as many of the weight's smallest singular parts."""
    u_0, s_0, v_0 = torch.linalg.svd(weight, full_matrices=False)
    low = slice(len(s_0) - len(s), None)
    replaced: Tensor = (u_0[:, low] * s_0[low]) @ v_0[low]
    return (u * s) @ v - replaced


HIRA = lossy_family(
    "hira",
    "HiRA",
    "y = W x + (W * (B A)) x + b, * elementwise",
    "W * (B A) against the weight that runs",
    "https://openreview.net/forum?id=TwJrTz9cRS",
    product_keys(set(), {"r", "rank_pattern", "hira_dropout"}),
    convert_hira,
)

FOURIERFT = lossy_family(
    "fourierft",
    "FourierFT",
    "y = W x + alpha Re(F^-1(spectrum)) x + b",
    "the inverse transform",
    "https://arxiv.org/abs/2405.03003",
    product_keys({"bias", "scaling", "random_loc_seed"}, {"n_frequency", "n_frequency_pattern"}),
    convert_fourierft,
)

C3A = lossy_family(
    "c3a",
    "C3A",
    "y = W x + C x + b, C of circulant blocks",
    "the blocks",
    "https://arxiv.org/abs/2407.19342",
    product_keys({"bias"}, {"block_size", "block_size_pattern"}),
    convert_c3a,
)

SHIRA = lossy_family(
    "shira",
    "SHiRA",
    "y = W x + S x + b, S sparse",
    "S",
    "https://arxiv.org/abs/2406.13175",
    product_keys(set(), {"r", "mask_type", "random_seed"}),
    convert_shira,
)

OSF = lossy_family(
    "osf",
    "OSF",
    "y = (U_high S_high V_high + U_low S_low V_low) x + b",
    "what replaces the weight's smallest singular parts, against the weight that runs",
    "https://arxiv.org/abs/2504.07097",
    product_keys(set(), {"effective_rank", "rank_pattern", "target_svd_config"}),
    convert_osf,
)
