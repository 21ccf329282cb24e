"""What the store must know of the base model, and nothing more."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class BaseWeights(Protocol):
    """The adaptable linears of the served base. Implemented by the engine; read from any thread."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the quantised base: equal exactly when the weights are."""
        ...

    def modules(self) -> Sequence[str]:
        """Paths of the adaptable linears ("model.layers.0.self_attn.q_proj"), in model order."""
        ...

    def shape(self, module: str) -> tuple[int, int]:
        """(N, K): out features, in features."""
        ...

    def weight(self, module: str) -> Tensor:
        """[N, K] float32: the dequantised weight, the one that really runs."""
        ...
