"""Several adapters as one: y = W x + sum_i w_i (y_i - W x), y_i being what each would answer alone.

Each y_i is gain_i * (W x + delta_gain_i * (B_i u_i)) + bias_i, so their sum is again of that form:

    gain = 1 + sum_i w_i (gain_i - 1)      bias = sum_i w_i bias_i
    u    = all u_i behind one another      B    = [w_i gain_i delta_gain_i B_i / gain]

which is exact, and of the sum of the ranks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from motet_kernels import Activation
from torch import Tensor

from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import PartSpec, SitePlan
from motet_adapters.image import Image, Layout, SiteParts, views_into
from motet_adapters.names import quoted

_LEAST_GAIN = 1e-3
_LINEAR_PARTS = frozenset({"a", "bt", "gain", "bias", "core_values", "core_columns"}) | {
    "inner_bias",
    "delta_gain",
}
_EMBEDDING_PARTS = frozenset({"at", "bt"})


class Member(NamedTuple):
    """One adapter of a composition."""

    name: str  # for messages
    image: Image
    weight: float


def compose(digest: str, members: Sequence[Member]) -> Image:
    """One image for all. Raises AdapterRefused for an adapter that cannot be added to others."""
    paths = dict.fromkeys(path for member in members for path in member.image.entries)
    sites = {path: _site(path, members) for path in paths}
    dtype = members[0].image.dtype
    layout = Layout.of((_plan(path, parts) for path, parts in sites.items()), dtype)
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    for path, views in views_into(buffer, layout.entries).items():
        for name, view in views.tensors.items():
            view.copy_(sites[path].tensors[name])
    return Image(digest, dtype, buffer, layout.entries)


def _plan(path: str, site: SiteParts) -> SitePlan:
    parts = {
        name: PartSpec(tuple(tensor.shape), None if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in site.tensors.items()
    }
    return SitePlan(path, {}, parts, lambda _read: site.tensors, site.activation)


def _site(path: str, members: Sequence[Member]) -> SiteParts:
    """What the members have at a path, added; float32."""
    found = []
    for member in members:
        if path not in member.image.entries:
            continue
        if member.image.entries[path].bases:
            raise _refused(member, path, "shares its factors with other tenants' adapters")
        parts = member.image.views(member.image.buffer)[path]
        if not set(parts.tensors) <= (_LINEAR_PARTS if "a" in parts.tensors else _EMBEDDING_PARTS):
            raise _refused(member, path, "changes more than a linear's output there")
        found.append((member, parts))
    activations = {parts.activation for _, parts in found}
    if len(activations) > 1:
        member = next(m for m, parts in found if parts.activation != "identity")
        raise _refused(member, path, "has a non-linearity that the others have not")
    weighted = [(member.weight, _wide(parts.tensors)) for member, parts in found]
    if "at" in weighted[0][1]:
        at = torch.cat([parts["at"] for _, parts in weighted], dim=1)
        return SiteParts({"at": at, "bt": torch.cat([w * parts["bt"] for w, parts in weighted])})
    return _linear(weighted, activations.pop(), found[0][0], path)


def _linear(
    weighted: Sequence[tuple[float, Mapping[str, Tensor]]],
    activation: Activation,
    first: Member,
    path: str,
) -> SiteParts:
    out_features = weighted[0][1]["bt"].shape[1]
    ones = torch.ones(out_features)
    gain = ones + sum((w * (parts.get("gain", ones) - 1) for w, parts in weighted), 0 * ones)
    if float(gain.abs().min()) < _LEAST_GAIN:
        raise _refused(first, path, "cancels with the others under these weights; change them")
    tensors = {
        "a": torch.cat([parts["a"] for _, parts in weighted]),
        "bt": torch.cat([w * _output_scale(parts, gain) * parts["bt"] for w, parts in weighted]),
    }
    if any("gain" in parts for _, parts in weighted):
        tensors["gain"] = gain
    if any("bias" in parts for _, parts in weighted):
        tensors["bias"] = torch.stack(
            [w * parts.get("bias", 0 * ones) for w, parts in weighted]
        ).sum(0)
    if any("inner_bias" in parts for _, parts in weighted):
        zero = [torch.zeros(parts["a"].shape[0]) for _, parts in weighted]
        tensors["inner_bias"] = torch.cat(
            [parts.get("inner_bias", z) for (_, parts), z in zip(weighted, zero, strict=True)]
        )
    if any("core_values" in parts for _, parts in weighted):
        tensors |= _cores([parts for _, parts in weighted])
    return SiteParts(tensors, activation)


def _output_scale(parts: Mapping[str, Tensor], gain: Tensor) -> Tensor:
    """[N]: gain_i * delta_gain_i / gain."""
    scale = parts.get("gain", torch.ones_like(gain)) / gain
    return scale * parts["delta_gain"] if "delta_gain" in parts else scale


def _cores(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Block-diagonal in ELLPACK: each member's columns behind those of the ones before it."""
    width = max(parts["core_values"].shape[1] if "core_values" in parts else 1 for parts in members)
    values, columns, start = [], [], 0
    for parts in members:
        rank = parts["a"].shape[0]
        own = torch.arange(rank, dtype=torch.int32)[:, None]
        value = parts.get("core_values", torch.ones(rank, 1))
        column = parts.get("core_columns", own) + start
        missing = width - value.shape[1]
        values.append(torch.nn.functional.pad(value, (0, missing)))
        columns.append(torch.cat([column, (own + start).expand(rank, missing)], dim=1))
        start += rank
    return {
        "core_values": torch.cat(values),
        "core_columns": torch.cat(columns).to(torch.int32),
    }


def _wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def _refused(member: Member, path: str, why: str) -> AdapterRefused:
    return AdapterRefused(
        f"Adapter {quoted(member.name)} cannot be combined with others: at {path} it {why}. "
        "Name it alone.",
        "adapters",
    )
