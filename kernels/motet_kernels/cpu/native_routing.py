"""A step's routing in the form the native kernels read."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import groupby

from motet_kernels.cpu.native_abi import Segment
from motet_kernels.routing import Routing


@dataclass(frozen=True)
class NativeRouting:
    routing: Routing
    segments: ctypes.Array[Segment]  # those on adapters, neighbours on one slot joined
    address: int
    num_segments: int
    num_tokens: int
    last_slot: int

    @classmethod
    def of(cls, routing: Routing) -> NativeRouting:
        segments = []
        for slot, run in groupby(routing.segments, key=lambda segment: segment.slot):
            parts = list(run)
            if slot:
                segments.append(Segment(slot, parts[0].start, parts[-1].stop))
        array = (Segment * len(segments))(*segments)
        return cls(
            routing=routing,
            segments=array,
            address=ctypes.addressof(array),
            num_segments=len(segments),
            num_tokens=routing.num_tokens,
            last_slot=max((segment.slot for segment in segments), default=0),
        )
