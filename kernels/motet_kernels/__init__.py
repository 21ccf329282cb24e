"""Tensors in, tensors out: NF4 linears with every row's own low-rank adapter, paged attention.

Knows nothing of tenants, HTTP, models or files. `ops.py` states each operation once;
`select_ops(device)` picks the implementation, `select_kernels(device)` also says why that one,
`ReferenceOps` is the definition.
"""

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.cpu.native_build import BuildFailed
from motet_kernels.decoder_layer import (
    AdaptedGroup,
    CannotFuse,
    DecoderLayer,
    FusedLayers,
    LayerOps,
    LayerStep,
    RmsNorm,
)
from motet_kernels.dispatch import (
    KernelReport,
    NoFastMath,
    Selection,
    select_kernels,
    select_ops,
)
from motet_kernels.layer_seconds import LayerSeconds, TimedLayerOps
from motet_kernels.lowrank import ACTIVATIONS, Activation, Core, LowRank, SlotTable
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.norm_table import NormTable
from motet_kernels.ops import AttentionPlan, Ops, PackedGroup
from motet_kernels.packed_dense import PackedDense, PackedDenseOps
from motet_kernels.reference import ReferenceOps
from motet_kernels.routing import Routing, Segment
from motet_kernels.sampling import Draw, LargestOps, SamplingOps
from motet_kernels.staged import LaunchShape, Place, StagedOps

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "AdaptedGroup",
    "AttentionPlan",
    "AttentionRow",
    "BuildFailed",
    "CannotFuse",
    "Core",
    "DecoderLayer",
    "Draw",
    "FusedLayers",
    "KernelReport",
    "LargestOps",
    "LaunchShape",
    "LayerOps",
    "LayerSeconds",
    "LayerStep",
    "LowRank",
    "Nf4Weight",
    "NoFastMath",
    "NormTable",
    "Ops",
    "PackedDense",
    "PackedDenseOps",
    "PackedGroup",
    "Place",
    "ReferenceOps",
    "RmsNorm",
    "Routing",
    "SamplingOps",
    "Segment",
    "Selection",
    "SlotTable",
    "StagedOps",
    "TimedLayerOps",
    "select_kernels",
    "select_ops",
]
