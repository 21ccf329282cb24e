"""Memory that was never written, made visible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within: torch.empty and its kin hand out NaN, so an element that is never written shows."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            patch.setattr(owner, name, _filled(getattr(owner, name)))
        yield


def _filled(make: Any) -> Any:
    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        tensor: Tensor = make(*args, **kwargs)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    return poisoned
