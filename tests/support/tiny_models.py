"""Random checkpoints of many architectures, small enough to make and run in milliseconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from tests.support.tiny_tokenizer import tiny_tokenizer

VOCAB_SIZE = 320  # more than the tokenizer has, as in many published models
SLIDING_WINDOW = 8

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 160,  # 2.5 NF4 blocks: a block crosses rows
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,  # logits far apart, so that a greedy choice is no coin toss
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_ALTERNATING = ["sliding_attention", "full_attention"]

# name -> (model type, what differs from the common configuration)
_SERVED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {}),
    "llama_tied": ("llama", {"tie_word_embeddings": True, "num_hidden_layers": 4}),
    # Neither side of any linear is a multiple of 64, and there are biases.
    "llama_odd": (
        "llama",
        {
            "hidden_size": 72,
            "intermediate_size": 100,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "mistral": ("mistral", {"sliding_window": SLIDING_WINDOW, "head_dim": 16}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": SLIDING_WINDOW,
            "layer_types": _ALTERNATING,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 10.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": SLIDING_WINDOW,
            "layer_types": _ALTERNATING,
            "tie_word_embeddings": True,
        },
    ),
    "phi3": ("phi3", {"sliding_window": None}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
            "logits_scaling": 2.0,
        },
    ),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0], "layer_types": ["full_attention"] * 2}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        },
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
}
_REFUSED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "stablelm": ("stablelm", {}),
    "falcon": ("falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}),
}

SERVED = tuple(_SERVED)
"""Names of checkpoints the engine runs."""

REFUSED = tuple(_REFUSED)
"""Names of checkpoints whose attention cannot be paged: they must be refused."""


def tiny_config(name: str, **overrides: Any) -> PreTrainedConfig:
    """The configuration of the checkpoint `name`, one of SERVED or REFUSED."""
    model_type, own = {**_SERVED, **_REFUSED}[name]
    return CONFIG_MAPPING[model_type](**{**_COMMON, **own, **overrides})


def tiny_model(name: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A bf16 model with random weights: the same for the same arguments, on any machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(name, **overrides))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # norms start at one and biases at zero: make them tell
                    parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.to(torch.bfloat16).eval()


def make_checkpoint(
    directory: Path,
    name: str = "llama",
    *,
    seed: int = 0,
    max_shard_size: str = "1GB",
    **overrides: Any,
) -> Path:
    """A checkpoint directory with weights and tokenizer, as a user would give it to --base."""
    model = tiny_model(name, seed=seed, **overrides)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(directory)
    return directory
