"""What is copied to a busy device reaches it after whoever still reads what was there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from motet.engine.cuda_graph import CudaCapture
from motet.engine.step_buffers import StepBuffers
from motet_adapters.device_copy import DeviceCopy
from torch import Tensor

from tests.gpu.conftest import DEVICE

pytestmark = pytest.mark.gpu

FIRST = torch.device("cuda", 0)
LONG = 200_000_000  # cycles: a tenth of a second


def busy() -> None:
    torch.cuda._sleep(LONG)  # type: ignore[no-untyped-call]


def test_an_adapter_waits_for_the_reader_of_the_one_before_and_delays_nobody() -> None:
    region = torch.full((1 << 20,), 1, dtype=torch.uint8, device=DEVICE)
    other = torch.full((1 << 20,), 3, dtype=torch.uint8, device=DEVICE)
    image = torch.full((1 << 20,), 2, dtype=torch.uint8, pin_memory=True)
    busy()
    read = region.clone()  # by a step that is queued
    copy = DeviceCopy.into(region)
    with ThreadPoolExecutor(1) as loader:
        loaded = loader.submit(copy.run, image)
        later = other.clone()  # a step after it, on the engine's stream
        assert torch.equal(loaded.result(), image.to(DEVICE))
    assert bool((read == 1).all())
    assert bool((later == 3).all())


def test_a_step_s_tables_are_not_those_of_the_next() -> None:
    buffers = StepBuffers(DEVICE, num_bytes=1 << 16)
    seen = []
    for step in range(4):
        buffers.begin()
        table = buffers.put(np.full(1000, step, dtype=np.int64))
        buffers.send()
        busy()
        seen.append(table.clone())
    for step, values in enumerate(seen):
        assert bool((values == step).all())


def test_loads_go_on_beside_a_capture_and_stay_out_of_it() -> None:
    """More of them than torch has streams of one priority."""
    x = torch.ones(1 << 10, device=DEVICE)
    regions = torch.zeros(64, 1 << 10, dtype=torch.uint8, device=DEVICE)
    images = [torch.full((1 << 10,), n + 1, dtype=torch.uint8).pin_memory() for n in range(64)]
    copies = [DeviceCopy.into(region) for region in regions]
    loader = ThreadPoolExecutor(2)

    def forward() -> Tensor:
        loaded = [
            loader.submit(copy.run, image) for copy, image in zip(copies, images, strict=True)
        ]
        for each in loaded:
            each.result()
        return x * 2

    with loader:
        graph = CudaCapture(FIRST)(forward)
    regions.zero_()
    assert bool((graph.replay() == 2).all())
    torch.cuda.synchronize()
    assert not bool(regions.any()), "a replay loads nothing"


def test_the_stream_is_the_same_after_a_capture_that_fails() -> None:
    x = torch.ones(4, device=DEVICE)
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        CudaCapture(FIRST)(lambda: x * float(x.sum()))  # waits for the device
    assert torch.cuda.current_stream() == before
    assert bool((x + 1 == 2).all())
