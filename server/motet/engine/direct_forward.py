"""A forward pass without transformers' own code between the parts of a model.

Where all layers run in one call (layers.py), what is left of a model's forward is its embedding,
its rotary embedding, its last norm and its head. Their modules stay transformers' own, with
whatever adapters hang on them; only the code that calls them, which takes a few percent of a small
model's step, is left out. Models whose forward does more than call its parts, such as scaling
embeddings or logits, are found out by a trial: every pass of it has to give the very bits of the
model's own forward.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from motet.engine.attention import PagedStep
from motet.engine.layers import LayerStack, the_one_stack

log = logging.getLogger(__name__)

_FIRST_POSITIONS = 512


class RotaryTable:
    """What a model's rotary embedding gives for each position, asked for once.

    max_positions: how long sequences may get; beyond, some modules answer differently for all.
    """

    def __init__(self, module: nn.Module, like: Tensor, max_positions: int) -> None:
        """like: a tensor of the dtype and on the device of the answers."""
        self._module = module
        self._like = like
        self._max_positions = max_positions
        self._parts = self._ask(0, _FIRST_POSITIONS)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions int64 [1, T] -> cos and sin [1, T, D]."""
        self._grow(int(positions.max()) + 1)
        cos, sin = (part.index_select(0, positions[0])[None] for part in self._parts)
        return cos, sin

    def _grow(self, num_positions: int) -> None:
        """Hold at least so many, twice as many as before: this happens in the middle of a step."""
        held = self._parts[0].shape[0]
        if num_positions <= held:
            return
        more = self._ask(held, max(num_positions, 2 * held))
        cos, sin = (torch.cat(pair) for pair in zip(self._parts, more, strict=True))
        self._parts = cos, sin

    def _ask(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """cos and sin [P, D] of positions [start, stop), as far as sequences may get."""
        wanted = torch.arange(start, min(stop, self._max_positions), device=self._like.device)
        cos, sin = self._module(self._like, position_ids=wanted[None])
        return cos[0].contiguous(), sin[0].contiguous()


class DirectForward:
    """The parts of a model whose layers are one stack, in the order in which it calls them."""

    def __init__(
        self,
        embedding: nn.Module,
        rotary: RotaryTable,
        stack: LayerStack,
        norm: nn.Module,
        head: nn.Module,
    ) -> None:
        self._embedding = embedding
        self._rotary = rotary
        self._stack = stack
        self._norm = norm
        self._head = head

    @classmethod
    def of(cls, model: nn.Module, max_positions: int) -> DirectForward | None:
        """None for a model that has other parts, or layers outside of one stack.

        Whether a model that has them calls them like this is for a `ForwardTrial` to show.
        """
        decoder = getattr(model, getattr(model, "base_model_prefix", ""), None)
        head = model.get_output_embeddings()  # type: ignore[operator]
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        rotary, norm, layers = (
            getattr(decoder, name, None) for name in ("rotary_emb", "norm", "layers")
        )
        if not (isinstance(rotary, nn.Module) and isinstance(norm, nn.Module) and head is not None):
            return None
        stack = the_one_stack(layers) if isinstance(layers, nn.ModuleList) else None
        if stack is None:
            return None
        try:
            table = RotaryTable(rotary, embedding.weight[:1], max_positions)
        except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as reason:
            # a module of another kind: it wants other arguments, or gives something else
            log.info("the model keeps its own forward: %s", reason)
            return None
        return cls(embedding, table, stack, norm, head)

    def logits(self, ids: Tensor, positions: Tensor, index: Tensor, step: PagedStep) -> Tensor:
        """ids and positions int64 [1, T]; the logits [R, V] of tokens `index`, int64 [R]."""
        layer_step = step.layer_step(*self._rotary.at(positions))
        hidden = self._norm(self._stack.compute(self._embedding(ids), layer_step))
        logits: Tensor = self._head(hidden.index_select(1, index))[0]
        return logits


class ForwardTrial:
    """Compares a direct forward with the model's own, pass by pass."""

    def __init__(self, direct: DirectForward) -> None:
        self._direct = direct
        self._num_passes = 0
        self._num_equal = 0

    def compare(
        self, expected: Tensor, ids: Tensor, positions: Tensor, index: Tensor, step: PagedStep
    ) -> None:
        """expected [R, V]: what the model's own forward gave for these arguments."""
        self._num_passes += 1
        actual = self._direct.logits(ids, positions, index, step)
        self._num_equal += torch.equal(actual, expected)

    def passed(self) -> DirectForward | None:
        """The direct forward if it gave the same bits every time, and was asked at all."""
        if self._num_passes and self._num_equal == self._num_passes:
            return self._direct
        log.info("the model keeps its own forward: it does more than call its parts")
        return None
