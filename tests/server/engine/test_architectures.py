"""Unmodified transformers models through the seams, against plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from motet.engine.attention import PagedStep
from motet.engine.base import open_base
from motet.errors import UnsupportedModel

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import greedy, logits
from tests.support.serving import LogitTap, request, run, served
from tests.support.tiny_models import REFUSED, SERVED, make_checkpoint

PROMPT_LENS = (1, 5, 16, 37)
NUM_TOKENS = 12  # prompts and answers run past the tiny models' sliding window of 8


@pytest.mark.parametrize("name", SERVED)
def test_served_like_plain_transformers(name: str, tmp_path: Path) -> None:
    """All prompts side by side, chunked and paged: the same tokens and the same logits."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    with served(checkpoint, tmp_path / "data") as runtime, LogitTap(runtime) as tap:
        generator = torch.Generator().manual_seed(1)
        requests = [
            request(
                torch.randint(3, 250, (length,), generator=generator).tolist(),
                max_tokens=NUM_TOKENS,
                ignore_eos=True,
            )
            for length in PROMPT_LENS
        ]
        outcomes = run(runtime, requests)
        plain = dense_model(runtime.base)
        for item, outcome in zip(requests, outcomes, strict=True):
            assert outcome.token_ids == greedy(plain, item.prompt, NUM_TOKENS)
            expected = logits(plain, [*item.prompt, *outcome.token_ids[:-1]])
            expected = expected[len(item.prompt) - 1 :]
            difference = (tap.of(item) - expected).abs().max() / expected.abs().max()
            assert difference < 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    with (
        pytest.raises(UnsupportedModel) as refusal,
        served(checkpoint, tmp_path / "data"),
    ):
        pass
    message = str(refusal.value)
    assert "\n" not in message
    assert name in message.lower() or "checkpoint" in message


def test_a_length_dependent_rotary_embedding_caps_the_length(tmp_path: Path) -> None:
    """Past the original length longrope changes for all rows of a batch at once."""
    half = [1.0] * 8
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        "phi3",
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 64,
            "short_factor": half,
            "long_factor": [2.0] * 8,
            "partial_rotary_factor": 1.0,
        },
    )
    with served(checkpoint, tmp_path / "data") as runtime:
        assert runtime.engine.max_model_len == 64


def test_the_probe_refuses_a_model_that_drops_what_the_seam_must_honour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that cannot fail proves nothing: with the scale dropped, start-up must fail."""
    attend = PagedStep.attend

    def without_scale(self, layer, q, k, v):  # type: ignore[no-untyped-def]
        return attend(self, type(layer)(layer.layer, 1.0, layer.window, layer.softcap), q, k, v)

    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    open_base(str(checkpoint), cache_dir=tmp_path / "data")
    monkeypatch.setattr(PagedStep, "attend", without_scale)
    with (
        pytest.raises(UnsupportedModel, match="differs from the plain one"),
        served(checkpoint, tmp_path / "data"),
    ):
        pass
