"""Tensors that have no place, and what they usually mean."""

from motet_adapters.names import listed

KEY_PREFIX = "base_model.model."  # before a module's path in the tensors' names

# Asked in this order; the first part found in a name decides what is said of it.
_MEANINGS = (
    (
        ".lora_embedding_",
        "They adapt an embedding: name it in target_modules, such as embed_tokens, if it was "
        "trained so.",
    ),
    (
        ".base_layer.",
        "They copy weights of the base: save with save_embedding_layers=False.",
    ),
    (
        "trainable_tokens_delta",
        "They are trained token embeddings: keep trainable_token_indices in the config.",
    ),
    (".lora_B.bias", "They are biases of lora_B: set lora_bias if it was trained so."),
    (".lora_diag", "They belong to KaSA: keep kasa_config in the config."),
)
_NAMED = (
    "They carry the adapter's name inside: save with PEFT's model.save_pretrained, not with "
    "state_dict()."
)
_DORA = "They are DoRA magnitudes: set use_dora to true if the adapter was trained so."
_TWICE = "They are DoRA magnitudes stored twice, with and without .weight: keep one."
_UNTARGETED = (
    "The config does not target their modules, or the base has none of that name: correct "
    "target_modules to what was trained, or serve the base the adapter was trained on."
)
_UNPREFIXED = f"Names must begin with {KEY_PREFIX} as PEFT's model.save_pretrained writes them."
_WHOLE = "If they are whole weights of modules, name those in modules_to_save."


def explain(extra: list[str], kind: str) -> str:
    """A message for tensors that landed on no module; `extra` is not empty. kind: the adapter's."""
    return f"{len(extra)} tensors fit no targeted module: {listed(extra)}. " + _meaning(
        extra[0], "dora" in kind
    )


def _meaning(name: str, use_dora: bool) -> str:
    if ".default." in f"{name}.":
        return _NAMED
    for part, meaning in _MEANINGS:
        if part in name:
            return meaning
    if ".lora_magnitude_vector" in name:
        return _TWICE if use_dora and name.endswith(".weight") else _DORA
    if not name.startswith(KEY_PREFIX):
        return _UNPREFIXED
    if ".lora_A." in name or ".lora_B." in name:
        return _UNTARGETED
    return _WHOLE
