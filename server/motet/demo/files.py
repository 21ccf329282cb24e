"""A trained adapter as the two files Motet takes."""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(adapted: PeftModel, directory: Path) -> int:
    """Writes adapter_config.json and adapter_model.safetensors (bf16) and returns their bytes.

    The adapter's parameters in memory are rounded to bf16 too, so what is judged next is what was
    written.
    """
    for config in adapted.peft_config.values():
        config.target_modules = sorted(config.target_modules)  # a set: its order would vary
    # Left to itself PEFT would ask the hub for the base's vocabulary by that name.
    adapted.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's blank model card
    weights = directory / WEIGHTS_FILE
    rounded = {key: value.to(torch.bfloat16) for key, value in load_file(weights).items()}
    save_file(rounded, weights, metadata={"format": "pt"})
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)
    return sum(file.stat().st_size for file in directory.iterdir())
