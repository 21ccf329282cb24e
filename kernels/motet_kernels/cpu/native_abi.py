"""The structs of native/abi.h, field by field."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p


class Segment(Structure):
    _fields_ = (("slot", c_int64), ("start", c_int64), ("stop", c_int64))


class Block(Structure):
    _fields_ = (
        ("member", c_int32),
        ("width", c_int32),
        ("column", c_int64),
        ("num_columns", c_int64),
        ("out_column", c_int64),
    )


class Group(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("blocks", POINTER(Block)),
        ("num_blocks", c_int64),
        ("num_members", c_int64),
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("scale_len", c_int64),
    )


class LinearCall(Structure):
    _fields_ = (
        ("group", POINTER(Group)),
        ("x", c_void_p),
        ("base", c_void_p),
        ("y", c_void_p),
        ("residual", c_void_p),
        ("segments", c_void_p),
        ("tables", c_void_p),
        ("num_segments", c_int64),
        ("num_tokens", c_int64),
        ("is_bf16", c_int32),
        ("num_threads", c_int32),
    )


class AttentionCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "v", "out", "rows", "blocks")),
        *((name, c_int64) for name in ("num_rows", "num_tokens", "longest")),
        *((name, c_int64) for name in ("q_token_stride", "q_head_stride")),
        *((name, c_int64) for name in ("block_size", "num_heads", "num_kv_heads")),
        *((name, c_int64) for name in ("key_size", "value_size", "window")),
        *((name, c_float) for name in ("scale", "softcap")),
        *((name, c_int32) for name in ("is_bf16", "num_threads")),
    )


class StoreCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("k", "v", "k_cache", "v_cache", "slots")),
        *((name, c_int64) for name in ("num_tokens", "num_heads", "num_places")),
        *((name, c_int64) for name in ("k_token_stride", "k_head_stride")),
        *((name, c_int64) for name in ("v_token_stride", "v_head_stride")),
        *((name, c_int64) for name in ("k_bytes", "v_bytes")),
    )


class DenseCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "weight", "bias", "y")),
        *((name, c_int64) for name in ("num_tokens", "in_features", "out_features")),
        *((name, c_int32) for name in ("is_bf16", "num_threads")),
    )


class LargestCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("logits", "places")),
        *((name, c_int64) for name in ("num_rows", "width")),
        *((name, c_int32) for name in ("is_bf16", "num_threads")),
    )


class NativeLayerStep(Structure):
    """LayerStep of abi.h; decoder_layer.py has a class of that name."""

    _fields_ = (
        *((name, c_void_p) for name in ("segments", "rows", "blocks", "slots", "cos", "sin")),
        *((name, c_int64) for name in ("num_segments", "num_tokens", "num_rows")),
        *((name, c_int64) for name in ("longest", "block_size", "num_places")),
        *((name, c_int32) for name in ("is_bf16", "num_threads")),
    )


class Norm(Structure):
    _fields_ = (("weight", c_void_p), ("eps", c_float), ("by_slot", c_void_p))


class Layer(Structure):
    _fields_ = (
        *((name, POINTER(Group)) for name in ("qkv", "output", "gate_up", "down")),
        *((name, Norm) for name in ("input_norm", "post_norm", "query_norm", "key_norm")),
        *((name, c_int64) for name in ("num_heads", "num_kv_heads", "head_size", "window")),
        *((name, c_float) for name in ("scale", "softcap")),
        *((name, c_void_p) for name in ("k_cache", "v_cache")),
        ("on_output", POINTER(Group)),
        ("tables", c_void_p),
    )


class LayersCall(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("layers", "step", "x", "y", "seconds")),
        ("num_layers", c_int64),
    )


STAGES = ("norms", "linears", "adapters", "rotary", "attention", "gate")
"""What `LayersCall.seconds` counts, in the order of native/stopwatch.h."""

OUTSIDE_THE_CACHE = 2
"""What a layer's call returns for a slot that is none."""
