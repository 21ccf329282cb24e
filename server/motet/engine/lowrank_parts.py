"""An image's parts at one path as the kernels take them."""

from __future__ import annotations

from motet_adapters import SiteParts
from motet_kernels import Core, LowRank


def lowrank_of(parts: SiteParts) -> LowRank:
    """Parts that are named as LowRank's tensors are; a and bt are always there."""
    find = parts.tensors.get
    values, columns = find("core_values"), find("core_columns")
    return LowRank(
        a=parts.tensors["a"],
        bt=parts.tensors["bt"],
        gain=find("gain"),
        bias=find("bias"),
        in_gain=find("in_gain"),
        core=Core(values, columns) if values is not None and columns is not None else None,
        inner_bias=find("inner_bias"),
        activation=parts.activation,
        delta_gain=find("delta_gain"),
    )
