from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from motet.engine.huge_pages import prefer_huge_pages

SMAPS = Path("/proc/self/smaps")
CHOICE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not (SMAPS.exists() and CHOICE.exists()), reason="the system tells nothing of large pages"
)
def test_the_system_is_asked_for_large_pages() -> None:
    tensor = torch.empty(16 << 20, dtype=torch.uint8)
    middle = tensor.data_ptr() + tensor.nbytes // 2
    assert "hg" not in flags_at(middle)
    assert prefer_huge_pages(tensor)
    assert "hg" in flags_at(middle)


def test_less_than_a_page_is_left_alone() -> None:
    assert not prefer_huge_pages(torch.empty(100, dtype=torch.uint8))


def flags_at(address: int) -> list[str]:
    """What the kernel says of the mapping that holds this address."""
    is_inside = False
    for line in SMAPS.read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            is_inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif is_inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("the address is in no mapping")
