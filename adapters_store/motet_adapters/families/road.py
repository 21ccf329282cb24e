"""RoAD (arXiv 2409.00119): pairs of outputs turned and stretched. Lossy."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import key, linears_of, product_keys
from motet_adapters.families.update_sites import lossy_family, lossy_rank, update_site
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor


def convert_road(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    rank = lossy_rank(fields, limits)
    sizes = {"road_1": 0.5, "road_2": 1, "road_4": 2}
    variant = fields.get("variant", "road_1")
    if not isinstance(variant, str) or variant not in sizes:
        raise AdapterRefused(f"variant={quoted(variant)} is none of {', '.join(sizes)}.", "variant")
    group = fields.integer(fields.get("group_size", 64), "group_size", 2, 1 << 20)

    def site(module: str) -> SitePlan:
        n = base.shape(module)[0]
        if n % group or group % 2:
            raise AdapterRefused(
                f"group_size={group} is odd, or does not divide the {n} outputs of {module}.",
                "group_size",
            )
        count = int(n * sizes[variant])

        def turned(rows: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
            return road(rows, variant, group, theta, alpha) - rows

        def update(theta: Tensor, alpha: Tensor) -> Tensor:
            return turned(base.weight(module).t(), theta, alpha).t()

        shapes = {"road_theta": (count,), "road_alpha": (count,)}
        found = update_site(base, module, rank, shapes, update)
        bias = base.bias(module)
        if bias is None:
            return found

        def lower(read: Read) -> dict[str, Tensor]:
            theta, alpha = (read(key(module, suffix)) for suffix in shapes)
            return {"bias": turned(bias, theta, alpha)}

        return replace(found, parts={**found.parts, "bias": PartSpec((n,))}, lower=lower)

    return AdapterPlan("road", tuple(map(site, linears_of(fields, tensors, base))))


def road(x: Tensor, variant: str, group: int, theta: Tensor, alpha: Tensor) -> Tensor:
    """Each two of x's last dimension turned and stretched: those half a group apart.

    x [..., N]. road_1: theta and alpha [N/2], one for a pair; road_2: [N], one for each; road_4:
    [2 N], two for each.
    """
    if variant == "road_1":
        theta, alpha = (
            v.view(-1, 1, group // 2).expand(-1, 2, -1).flatten() for v in (theta, alpha)
        )
    if variant == "road_4":
        theta, alpha = theta.view(-1, 2, group), alpha.view(-1, 2, group)
        first = (alpha[:, 0] * theta[:, 0].cos()).flatten()
        second = (alpha[:, 1] * theta[:, 1].sin()).flatten()
    else:
        first, second = alpha * theta.cos(), alpha * theta.sin()
    pairs = x.reshape(*x.shape[:-1], -1, 2, group // 2)
    turned = torch.stack((-pairs[..., 1, :], pairs[..., 0, :]), dim=-2).flatten(-3)
    return x * first + turned * second


ROAD = lossy_family(
    "road",
    "RoAD",
    "y = R (W x + b), R of 2 x 2 blocks",
    "R W - W against the weight that runs; the bias R b - b is exact",
    "https://arxiv.org/abs/2409.00119",
    product_keys({"variant", "group_size"}, set()),
    convert_road,
)
