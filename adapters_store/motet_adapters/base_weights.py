"""What the store must know of the base model, and nothing more."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor


class BaseWeights(Protocol):
    """The served base. Implemented by the engine; read from any thread.

    A method that is given a path raises KeyError for one that the model does not have.
    """

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the quantised base: equal exactly when the weights are."""
        ...

    @property
    def hidden_size(self) -> int:
        """D, of the residual stream."""
        ...

    def modules(self) -> Sequence[str]:
        """Paths of the adaptable linears ("model.layers.0.self_attn.q_proj"), in model order."""
        ...

    def shape(self, module: str) -> tuple[int, int]:
        """(N, K) of a linear: out features, in features."""
        ...

    def weight(self, module: str) -> Tensor:
        """[N, K] float32: the dequantised weight of a linear, the one that really runs."""
        ...

    def bias(self, module: str) -> Tensor | None:
        """[N] float32 of a linear; None: it has none."""
        ...

    def original(self, module: str) -> Tensor | None:
        """[N, K] float32: the weight of a linear before it was quantised, read again from where the
        base came from, which may take long. None where it cannot be had."""
        ...

    def shares_input(self, module: str) -> bool:
        """Whether other linears are computed together with this one, from the same input."""
        ...

    def layers(self) -> Sequence[str]:
        """Paths of the decoder layers ("model.layers.0"), in model order."""
        ...

    def norms(self) -> Mapping[str, int]:
        """Path -> size of every norm that is nothing but a weight, in model order."""
        ...

    def embedding(self) -> tuple[str, tuple[int, int]]:
        """Path and shape [V, D] of the token embedding."""
        ...

    def head(self) -> tuple[str, tuple[int, int], bool]:
        """Path and shape [V, K] of the output head, and whether its weight is the embedding's."""
        ...

    def dense(self, path: str) -> Tensor:
        """float32: the weight of the embedding, the output head or a norm."""
        ...

    def experts(self) -> Mapping[str, Mapping[str, tuple[int, int, int]]]:
        """Path of every module of stacked experts -> name of its parameter -> (E, N, K): experts,
        out features, in features. Both in model order; empty: the model is no mixture."""
        ...

    def attention_shape(self) -> tuple[int, int, int]:
        """(layers, key/value heads, head size)."""
        ...
