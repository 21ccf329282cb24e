"""Where the time of whole decoder layers goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from motet_kernels.decoder_layer import FusedLayers, LayerStep


@dataclass(frozen=True)
class LayerSeconds:
    """Wall time of the stages of one call, all its layers together, in seconds.

    A stage lasts until its last thread is done.
    """

    norms: float
    linears: float  # with B u, gains and biases, which are added where W x is at hand
    adapters: float  # A x, what makes u of it, and all of those on the layers' output
    rotary: float  # with storing keys and values
    attention: float
    gate: float


@runtime_checkable
class TimedLayerOps(Protocol):
    """What an implementation of LayerOps has besides if it can say where the time goes."""

    def timed_decoder_layers(
        self, x: Tensor, fused: FusedLayers, step: LayerStep
    ) -> tuple[Tensor, LayerSeconds]:
        """`LayerOps.decoder_layers`, the same to the bit, and how long its stages took."""
