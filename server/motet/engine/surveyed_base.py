"""A base that knows which of its linears share an input, without a server around it."""

from __future__ import annotations

from dataclasses import replace

import torch

from motet.engine.attention import ATTENTION_NAME, register_attention
from motet.engine.base import QuantizedBase
from motet.engine.survey import survey


def surveyed(base: QuantizedBase) -> QuantizedBase:
    """`base` with its `input_groups`, for verdicts on uploads that are the server's.

    Raises UnsupportedModel for a base that cannot be served.
    """
    register_attention()
    model = base.build_model(torch.bfloat16, attn_implementation=ATTENTION_NAME)
    return replace(base, input_groups=survey(model, base.shapes).groups)
