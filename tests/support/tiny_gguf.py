"""A GGUF file of a tiny random model."""

import json
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel

from tests.support.tiny_tokenizer import CHAT_TEMPLATE, END_OF_TURN, SPECIAL_TOKENS, tiny_tokenizer

# Of the architectures GGUF knows, qwen2 is one whose weights it stores without reordering.
_ARCHITECTURE = "qwen2"
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(file: Path, model: PreTrainedModel) -> Path:
    """`model`, a qwen2 as `tiny_model` makes it, with the tiny tokenizer, unquantised (F32)."""
    writer = gguf.GGUFWriter(str(file), _ARCHITECTURE)
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), tensor.to(torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    if parts[:2] == ["model", "layers"]:
        return f"blk.{parts[2]}.{_NAMES['.'.join(parts[3:])]}.{kind}"
    return f"{_NAMES[module]}.{kind}"


def _add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    backend = tiny_tokenizer().backend_tokenizer
    tokens = [backend.id_to_token(i) or f"<unused{i}>" for i in range(vocab_size)]
    special = set(SPECIAL_TOKENS) | {token for token in tokens if token.startswith("<unused")}
    types = [
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens
    ]
    merges = [f"{left} {right}" for left, right in _merges(backend.to_str())]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index(END_OF_TURN))
    writer.add_bos_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)


def _merges(backend_json: str) -> list[list[str]]:
    return list(json.loads(backend_json)["model"]["merges"])
