"""An unmodified transformers model, driven through three seams (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from motet_adapters import Slot
from motet_kernels import LayerOps, Ops, Routing, Segment, SlotTable, StagedOps
from torch import Tensor, nn
from transformers import PreTrainedConfig

from motet.engine import kv_cache
from motet.engine.attention import ATTENTION_NAME, PagedStep, register_attention
from motet.engine.bare_products import hand_over_products
from motet.engine.base import QuantizedBase
from motet.engine.batch import Batch, BatchLayout
from motet.engine.cuda_graph import CudaCapture
from motet.engine.direct_forward import DirectForward, ForwardTrial
from motet.engine.head_site import AdaptedHead
from motet.engine.kv_edits import KvEdit
from motet.engine.layer_form import find_candidates
from motet.engine.layers import adopt, put_on_trial
from motet.engine.linear import AdaptedLinear, CurrentRouting, DenseLinear, LinearGroup
from motet.engine.memory import default_kv_bytes
from motet.engine.sites import Sites
from motet.engine.step_buffers import StepBuffers
from motet.engine.step_graphs import StepGraphs, row_buckets
from motet.engine.survey import Survey, survey
from motet.engine.virtual_tokens import VirtualEmbedding

LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that change for the whole batch once one row is long.

A row's neighbours would change its answer, so lengths are capped where they do not.
"""


@dataclass(frozen=True)
class CacheBudget:
    """How much KV cache to allocate: `num_bytes`, in blocks of `block_size` positions."""

    num_bytes: int | None  # None: what is free once the weights are there, less `reserved_bytes`
    reserved_bytes: int  # promised to others of what is free
    block_size: int
    max_model_len: int | None  # None: whatever the model was made for


class PagedModel:
    """One base model with its KV cache and, per linear, the table of adapters on it.

    Not thread-safe: the engine thread owns it.
    """

    def __init__(
        self,
        base: QuantizedBase,
        ops: Ops,
        *,
        dtype: torch.dtype,
        device: torch.device,
        num_slots: int,
        budget: CacheBudget,
        graph_rows: int = 0,
    ) -> None:
        """graph_rows: steps of up to so many one-token rows run as CUDA graphs where ops can."""
        register_attention()
        self.dtype = dtype
        self.ops = ops
        self._routing = CurrentRouting()
        self._model = base.build_model(dtype, attn_implementation=ATTENTION_NAME).to(device)
        found = survey(self._model, base.shapes)
        self.tables: Mapping[str, SlotTable] = {
            path: SlotTable(num_slots, in_features, out_features, device)
            for path, (out_features, in_features) in base.shapes.items()
        }
        self._groups = self._install(base, found, device)
        self.input_groups = found.groups
        self._sites = Sites(
            self._model, self.tables, ops, self._routing, num_slots=num_slots, device=device
        )
        self._virtual = VirtualEmbedding(self._model.get_input_embeddings())
        config = self._model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.max_positions = _max_positions(config)
        self.max_model_len = min(self.max_positions, budget.max_model_len or self.max_positions)
        per_block = kv_cache.block_bytes(found.layers, budget.block_size, dtype)
        num_bytes = budget.num_bytes or default_kv_bytes(device, budget.reserved_bytes)
        self.num_blocks = kv_cache.num_blocks_within(num_bytes, per_block, budget.block_size)
        self.kv_bytes = (self.num_blocks + 1) * per_block
        self._caches = kv_cache.allocate(
            found.layers, self.num_blocks, budget.block_size, dtype, device
        )
        if self._sites.wait_for_the_device:
            graph_rows = 0
        self.layout = _layout(ops, budget.block_size, dtype, device, graph_rows, num_slots)
        self.graphs = StepGraphs(CudaCapture(device)) if self.layout.buckets else None
        self._settled: Hashable = None  # see StagedOps.settle; None: an adapter has changed since
        self.layer_shapes = found.layers
        self.num_layers = len(found.layers)
        self.num_one_call_layers = 0  # see layers.py; until they have been tried, none is
        self._candidates = find_candidates(
            self._model, self._groups, found.layers, self._caches, self._sites
        )
        self._forward_trial: ForwardTrial | None = None
        self._direct: DirectForward | None = None  # see direct_forward.py; None: the model's own

    @property
    def weight_bytes(self) -> int:
        """Memory of the base's weights as this device holds them."""
        dense: dict[int, int] = {p.data_ptr(): p.nbytes for p in self._model.parameters()}
        heads = (part for part in self._model.modules() if isinstance(part, AdaptedHead))
        return (
            sum(dense.values())
            + sum(group.num_bytes for group in self._groups.values())
            + sum(head.packed_bytes for head in heads)
        )

    def bind(self, slot: Slot) -> None:
        """Put a loaded adapter's tensors in their places, and the base's where it has none."""
        self._settled = None
        self._sites.bind(slot.index, slot.views)

    @torch.inference_mode()
    def edit_kv(self, edits: Sequence[KvEdit]) -> None:
        """Make a plan's edits of the KV cache, before its forward pass."""
        kv_cache.edit(self._caches, edits)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits [R, V] of the rows that sample, in the order of `batch.sampling_rows`."""
        self._routing.set(batch.routing, batch.logit_routing)
        self._virtual.set(batch.virtual)
        if batch.key is None or self.graphs is None or self._needs_modules(batch):
            logits = self._logits(batch)
        else:
            logits = self.graphs.run(batch.key, self._version(), lambda: self._logits(batch))
        return logits[: len(batch.sampling_rows)]

    def _needs_modules(self, batch: Batch) -> bool:
        """Whether modules have work in this step that they have not in others."""
        return bool(batch.virtual) or self._sites.beyond_linears(batch.routing)

    def _version(self) -> Hashable:
        """What a captured forward pass depends on and no step's key tells."""
        assert isinstance(self.ops, StagedOps)
        assert self.layout.buffers is not None
        if self._settled is None:
            groups = [group.tables for group in self._groups.values()]
            self._settled = self.ops.settle(groups, self.dtype)
        return self._settled, self.layout.buffers.generation

    def _logits(self, batch: Batch) -> Tensor:
        """Logits [len(batch.logit_index), V]."""
        step = PagedStep(self.ops, self._caches, batch.kv_slots, batch.attention, batch.routing)
        arguments = (batch.input_ids, batch.positions, batch.logit_index)
        if self._direct is not None:
            return self._direct.logits(*arguments, step)
        output = self._model(
            input_ids=batch.input_ids,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=batch.logit_index,
            step=step,
        )
        logits: Tensor = output.logits[0]
        if self._forward_trial is not None:
            self._forward_trial.compare(logits, *arguments, step)
        return logits

    @contextmanager
    def layers_on_trial(self) -> Iterator[None]:
        """Paged forwards in this context decide which layers run in one call after it."""
        if not isinstance(self.ops, LayerOps):
            yield
            return
        trials = put_on_trial(self._model, self._candidates, self.ops)
        yield
        self.num_one_call_layers = adopt(self._model, trials, self.ops)

    @contextmanager
    def forward_on_trial(self) -> Iterator[None]:
        """Paged forwards in this context decide whether the model's parts are called directly
        after it; only where all layers run in one call can they be."""
        direct = DirectForward.of(self._model, self.max_positions)
        if direct is None:
            yield
            return
        self._forward_trial = ForwardTrial(direct)
        try:
            yield
            self._direct = self._forward_trial.passed()
        finally:
            self._forward_trial = None

    @torch.inference_mode()
    def plain_logits(self, ids: list[int]) -> Tensor:
        """ids [T] -> [V]: the logits after the last token by transformers' eager attention."""
        routing = Routing((Segment(0, 0, len(ids)),))
        self._routing.set(routing, routing)
        self._virtual.set(())
        self._model.set_attn_implementation("eager")
        try:
            tokens = torch.tensor([ids], device=self._model.device)
            logits: Tensor = self._model(input_ids=tokens, use_cache=False).logits
        finally:
            self._model.set_attn_implementation(ATTENTION_NAME)
        return logits[0, -1]

    def _install(
        self, base: QuantizedBase, found: Survey, device: torch.device
    ) -> dict[tuple[str, ...], LinearGroup]:
        groups = {}
        for paths in found.groups:
            weights = [base.linears[path] for path in paths]
            biases = [base.biases.get(path) for path in paths]
            packed = self.ops.pack(weights, biases, self.dtype, device)
            group = LinearGroup(
                self.ops, packed, [self.tables[path] for path in paths], self._routing
            )
            for member, path in enumerate(paths):
                module = AdaptedLinear(group, member, weights[member].shape)
                self._model.set_submodule(path, module)
            groups[paths] = group
        head = self._model.get_output_embeddings()
        for path, module in tuple(self._model.named_modules()):
            if type(module) is nn.Linear and module is not head:  # the head becomes a site
                self._model.set_submodule(path, DenseLinear(module, self.ops))
        if device.type == "cuda":  # on a CPU, row_multiple is what keeps these products' bits
            hand_over_products(self._model, self.ops)
        return groups


def _layout(
    ops: Ops,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    graph_rows: int,
    num_slots: int,
) -> BatchLayout:
    multiple = ops.row_multiple(dtype)
    if device.type != "cuda" or not isinstance(ops, StagedOps):
        return BatchLayout(ops, block_size, multiple, device)
    buckets = row_buckets(graph_rows, multiple) if graph_rows else ()
    return BatchLayout(ops, block_size, multiple, device, StepBuffers(device), buckets, num_slots)


def _max_positions(config: PreTrainedConfig) -> int:
    """The longest sequence the model can take, an adapter's virtual tokens included."""
    longest: int = config.max_position_embeddings
    parameters = getattr(config, "rope_parameters", None) or {}
    per_layer_type = [value for value in parameters.values() if isinstance(value, Mapping)]
    for rope in per_layer_type or [parameters]:
        if rope.get("rope_type") in LENGTH_DEPENDENT_ROPE:
            longest = min(longest, rope.get("original_max_position_embeddings") or longest)
    return longest
