"""Which requests one model and its KV cache can ever run."""

from __future__ import annotations

from dataclasses import dataclass

from motet_adapters import Adapter

from motet.engine.model import PagedModel
from motet.engine.request import Request
from motet.errors import RequestRefused


@dataclass(frozen=True)
class RequestBounds:
    """What is known of a model before a request comes."""

    vocab_size: int
    max_model_len: int  # real tokens of a request, prompt and completion together
    max_positions: int  # of a sequence, an adapter's virtual tokens included
    num_blocks: int  # of the KV cache
    block_size: int

    @classmethod
    def of(cls, model: PagedModel) -> RequestBounds:
        return cls(
            model.vocab_size,
            model.max_model_len,
            model.max_positions,
            model.num_blocks,
            model.layout.block_size,
        )

    def max_len(self, adapter: Adapter | None) -> int:
        """The most tokens, prompt and completion together, that a request may have on an adapter,
        whose virtual tokens take positions too. May be 0."""
        num_virtual = adapter.num_virtual_tokens if adapter else 0
        # where they end within a block, the adapter keeps a copy of it
        num_blocks = self.num_blocks - bool(num_virtual % self.block_size)
        positions = min(self.max_positions, num_blocks * self.block_size) - num_virtual
        return max(min(self.max_model_len, positions), 0)

    def check(self, request: Request) -> None:
        """Raises RequestRefused for one that can never run."""
        outside = [token for token in request.prompt if token >= self.vocab_size]
        if outside:
            raise RequestRefused(
                f"token id {outside[0]} is outside the vocabulary of {self.vocab_size}",
                param="prompt",
            )
        try:
            request.params.check_vocabulary(self.vocab_size)
        except ValueError as error:
            raise RequestRefused(str(error)) from error
        total = len(request.prompt) + request.params.max_tokens
        longest = self.max_len(request.adapter)
        if total > longest:
            of_adapter = "" if longest == self.max_len(None) else " with this adapter"
            raise RequestRefused(
                f"the prompt has {len(request.prompt)} tokens and max_tokens is "
                f"{request.params.max_tokens}, together {total}; this server's limit{of_adapter} "
                f"is {longest}: shorten the prompt or lower max_tokens",
                code="context_length_exceeded",
                param="prompt",
            )
