from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from motet.engine import sampler as sampler_module
from motet.engine.request import LogProb, SamplingParams
from motet.engine.sampler import Sampled, Sampler, SampleRow
from motet.engine.token_counts import TokenCounts
from motet_kernels import ReferenceOps
from motet_kernels.gpu.gpu_ops import GpuOps
from torch import Tensor

from tests.support.interpreted import interpreted

VOCAB = 1531  # of no particular alignment
ENDS = (2,)
PROMPT = (5, 9, 9, 40)

KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0, "logprobs": 5},
    {"temperature": 0, "repetition_penalty": 1.4, "frequency_penalty": 0.3},
    {"temperature": 1e-4},
    {},
    {"top_p": 0.9, "logprobs": 0},
    {"top_k": 40, "top_p": 0.95, "temperature": 0.8},
    {"min_p": 0.02, "presence_penalty": 1.0, "logprobs": 20},
    {"temperature": 1.7, "logit_bias": {7: 4.0, 11: -100.0}, "min_tokens": 16},
)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def row(seed: int = 0, generated: tuple[int, ...] = (), **params: Any) -> SampleRow:
    return SampleRow(
        SamplingParams(max_tokens=64, seed=seed, **params), TokenCounts(PROMPT, generated)
    )


def mixed_rows(num_rows: int, seed: int) -> list[SampleRow]:
    chooser = random.Random(seed)
    return [
        row(
            seed=i,
            generated=tuple(chooser.choices(range(VOCAB), k=chooser.randrange(12))),
            **KINDS[chooser.randrange(len(KINDS))],
        )
        for i in range(num_rows)
    ]


def random_logits(num_rows: int, dtype: torch.dtype, seed: int, vocab: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, vocab, generator=generator) * 4).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_is_the_same_alone_and_in_any_batch(dtype: torch.dtype, device: str) -> None:
    """To the last bit, log-probabilities included, wherever it stands and whoever is with it."""
    sampler = Sampler(ENDS)
    logits = random_logits(40, dtype, seed=1).to(device)
    rows = mixed_rows(40, seed=2)
    together = sampler.sample(logits, rows)
    alone = [sampler.sample(logits[i : i + 1].clone(), [rows[i]])[0] for i in range(40)]
    assert together == alone
    order = random.Random(3).sample(range(40), 23)
    shuffled = sampler.sample(logits[order], [rows[i] for i in order])
    assert shuffled == [alone[i] for i in order]


def test_a_real_vocabulary_is_as_independent() -> None:
    """Long rows are where a reduction would be split over threads, were it a batch's."""
    sampler = Sampler(ENDS)
    logits = random_logits(9, torch.bfloat16, seed=4, vocab=49_152)
    rows = [row(seed=i, **kind) for i, kind in enumerate(KINDS)]
    together = sampler.sample(logits, rows)
    assert together == [sampler.sample(logits[i : i + 1], [rows[i]])[0] for i in range(9)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_device_path_gives_what_the_host_path_gives(dtype: torch.dtype) -> None:
    sampler = Sampler(ENDS)
    logits = random_logits(40, dtype, seed=5)
    rows = mixed_rows(40, seed=6)
    for index, bad in ((3, math.nan), (4, math.inf), (5, math.nan)):
        logits[index, 7] = bad
    rows[3] = rows[4] = row(temperature=0)
    rows[5] = row(temperature=0, logprobs=1)
    assert sampler._sample_on_device(logits, rows) == sampler.sample(logits, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_host_that_finds_the_largest_changes_nothing(dtype: torch.dtype) -> None:
    logits = random_logits(40, dtype, seed=5)
    rows = mixed_rows(40, seed=6)
    for index, bad in ((3, math.nan), (4, math.inf), (5, -math.inf)):
        logits[index, 7] = bad
        rows[index] = row(temperature=0)
    logits[6] = -math.inf
    rows[6] = row(temperature=0)
    assert Sampler(ENDS, host=ReferenceOps()).sample(logits, rows) == Sampler(ENDS).sample(
        logits, rows
    )


@interpreted
def test_tokens_drawn_on_the_device_are_those_drawn_on_the_host() -> None:
    logits = random_logits(12, torch.float32, seed=5)
    rows = mixed_rows(12, seed=6)
    logits[3, 7] = math.nan
    on_device = Sampler(ENDS, GpuOps())._sample_on_device(logits, rows)
    assert on_device == Sampler(ENDS).sample(logits, rows)
    assert any(row.bare and not row.plain for row in rows)


def test_the_device_sends_tokens_and_the_rows_that_need_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[list[tuple[int, ...]]] = []

    def on_host(*tensors: Tensor) -> list[Tensor]:
        sent.append([tuple(tensor.shape) for tensor in tensors])
        return list(tensors)

    monkeypatch.setattr(sampler_module, "_on_host", on_host)
    sampler, greedy = Sampler(ENDS), row(temperature=0)
    logits = random_logits(3, torch.float32, seed=5)
    for rows in ([greedy] * 3, [greedy, row(), greedy]):
        assert sampler._sample_on_device(logits, rows) == sampler.sample(logits, rows)
    assert sampler._sample_on_device(logits[:0], []) == []
    assert sent == [[(3,)], [(3,), (1, VOCAB)]]


def generate(sampler: Sampler, params: SamplingParams, preempt_at: int | None = None) -> list[int]:
    """Sixteen tokens of a toy model whose logits depend on the last token alone."""
    model = random_logits(VOCAB, torch.bfloat16, seed=7)
    counts, generated = TokenCounts(PROMPT), list[int]()
    for step in range(16):
        if step == preempt_at:
            counts = TokenCounts(PROMPT, generated)
        last = generated[-1] if generated else PROMPT[-1]
        (sampled,) = sampler.sample(model[last : last + 1], [SampleRow(params, counts)])
        generated.append(sampled.token_id)
        counts.add(sampled.token_id)
    return generated


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_tokens_again_and_after_preemption(kind: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=64, seed=11, **kind)
    tokens = generate(Sampler(ENDS), params)
    assert tokens == generate(Sampler(ENDS), params)
    assert tokens == generate(Sampler(ENDS), params, preempt_at=9)


def test_other_seeds_and_other_positions_give_other_tokens() -> None:
    sampler = Sampler(ENDS)
    logits = torch.zeros(64, VOCAB)
    by_seed = sampler.sample(logits, [row(seed=i) for i in range(64)])
    by_position = sampler.sample(logits, [row(generated=(1,) * i) for i in range(64)])
    assert len({s.token_id for s in by_seed}) > 50
    assert len({s.token_id for s in by_position}) > 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_go_to_the_lowest_id(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 50_000, dtype=dtype)
    logits[:, [300, 4_000, 49_000]] = 2.5
    sampler = Sampler(ENDS)
    greedy = [row(temperature=0), row(temperature=0, logprobs=4)]
    for sampled in (sampler.sample(logits, greedy), sampler._sample_on_device(logits, greedy)):
        assert [s.token_id for s in sampled] == [300, 300]
        logprob = sampled[1].logprob
        assert logprob is not None
        assert [token_id for token_id, _ in logprob.top] == [300, 4_000, 49_000, 0]
    assert sampler.sample(logits[:1], [row(top_k=1)])[0].token_id == 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_not_finite_fails_alone(
    kind: dict[str, Any], bad: float, dtype: torch.dtype
) -> None:
    sampler = Sampler(ENDS)
    logits = random_logits(3, dtype, seed=8)
    rows = [row(seed=i, **kind) for i in range(3)]
    expected = sampler.sample(logits, rows)
    logits[1, 700] = bad
    sampled = sampler.sample(logits, rows)
    assert sampled == [expected[0], Sampled(-1, ok=False), expected[2]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_minus_infinity_is_a_token_that_is_never_chosen(temperature: float) -> None:
    logits = torch.full((1, 8), -math.inf)
    logits[0, 5] = -3.0
    (sampled,) = Sampler(()).sample(logits, [row(temperature=temperature, logprobs=3)])
    assert sampled == Sampled(5, LogProb(5, 0.0, ((5, 0.0),)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_whose_every_token_is_ruled_out_fails(temperature: float) -> None:
    ruled_out = row(temperature=temperature, min_tokens=3, stop_token_ids=(0, 1))
    (sampled,) = Sampler(ENDS).sample(torch.zeros(1, 3), [ruled_out])
    assert not sampled.ok


def test_logprobs_are_of_the_models_own_distribution() -> None:
    """Whatever the request does to the logits, and whichever token it ends up choosing."""
    logits = random_logits(1, torch.float32, seed=9)
    expected = torch.log_softmax(logits[0].double(), dim=0)
    best = expected.topk(20)
    changed: dict[str, Any] = {"temperature": 2.0, "top_k": 3, "presence_penalty": 2.0}
    bias = {3: 100.0}
    (sampled,) = Sampler(ENDS).sample(logits, [row(logprobs=20, logit_bias=bias, **changed)])
    logprob = sampled.logprob
    assert sampled.token_id == 3
    assert logprob is not None
    assert logprob.token_id == 3
    assert logprob.logprob == pytest.approx(expected[3].item(), abs=1e-5)
    assert [token_id for token_id, _ in logprob.top] == best.indices.tolist()
    assert [value for _, value in logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_no_more_alternatives_than_tokens() -> None:
    (sampled,) = Sampler(()).sample(torch.zeros(1, 3), [row(temperature=0, logprobs=20)])
    assert sampled.logprob is not None
    assert [token_id for token_id, _ in sampled.logprob.top] == [0, 1, 2]


def test_alternatives_are_ranked_by_probability_then_by_id() -> None:
    for seed in range(20):
        values = random.Random(seed).choices(range(4), k=50)
        logits = torch.tensor([values], dtype=torch.float32)
        (sampled,) = Sampler(()).sample(logits, [row(temperature=0, logprobs=20)])
        assert sampled.logprob is not None
        ranked = sorted(range(50), key=lambda i: (-values[i], i))[:20]
        assert [token_id for token_id, _ in sampled.logprob.top] == ranked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_left_alone(dtype: torch.dtype) -> None:
    logits = random_logits(9, dtype, seed=10)
    before = logits.clone()
    Sampler(ENDS).sample(logits, [row(seed=i, **kind) for i, kind in enumerate(KINDS)])
    assert torch.equal(logits, before)


def test_tensors_of_inference_mode_and_views_are_taken() -> None:
    with torch.inference_mode():
        wide = random_logits(4, torch.bfloat16, seed=12, vocab=VOCAB + 5)
    rows = mixed_rows(2, seed=13)
    view = wide[::2, 3 : 3 + VOCAB]
    assert Sampler(ENDS).sample(view, rows) == Sampler(ENDS).sample(view.clone(), rows)


def test_an_empty_batch_gives_no_tokens() -> None:
    assert Sampler(ENDS).sample(torch.zeros(0, 8), []) == []


def test_rows_and_logits_must_agree() -> None:
    with pytest.raises(ValueError, match="2 rows of logits for 1"):
        Sampler(ENDS).sample(torch.zeros(2, 8), [row()])


def test_a_random_row_without_a_seed_is_refused() -> None:
    unseeded = SamplingParams(max_tokens=1)
    with pytest.raises(ValueError, match="seeded"):
        SampleRow(unseeded, TokenCounts(PROMPT))
    SampleRow(unseeded.seeded(), TokenCounts(PROMPT))
    SampleRow(SamplingParams(max_tokens=1, temperature=0), TokenCounts(PROMPT))
