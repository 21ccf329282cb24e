"""The demo adapters as served, on the real demo base, against PEFT."""

import copy

import pytest
import torch
from motet.demo.catalog import DEMO_TENANTS
from peft import PeftModel

from tests.support.demo_model import CACHE_DIR, demo_base
from tests.support.dense_model import dense_model
from tests.support.peft_adapters import logits
from tests.support.serving import LogitTap, request, run, served, upload

pytestmark = pytest.mark.slow
NUM_TOKENS = 64


def test_all_demo_adapters_and_the_base_in_one_batch(tmp_path):
    """float32: 64 greedy tokens are PEFT's own choices, every logit within 1e-3 of the largest."""
    demo_base()
    (tmp_path / "bases").symlink_to(CACHE_DIR / "bases")
    plain = dense_model(demo_base())
    oracles, requests = {None: plain}, {}
    with served(None, tmp_path, threads=2, max_model_len=256) as runtime:
        for one in DEMO_TENANTS:
            lora = PeftModel.from_pretrained(copy.deepcopy(plain), str(one.directory)).float()
            oracles[one.adapter] = lora.eval()
            adapter = upload(runtime, one.tenant, one.adapter, one.directory)
            ids = runtime.tokenizer.apply_chat([{"role": "user", "content": one.prompt}])
            requests[one.adapter] = request(ids, adapter, max_tokens=NUM_TOKENS, ignore_eos=True)
        requests[None] = request(
            runtime.tokenizer.encode("The capital of France is"),
            max_tokens=NUM_TOKENS,
            ignore_eos=True,
        )
        run(runtime, [request([1], item.adapter, max_tokens=1) for item in requests.values()])
        with LogitTap(runtime) as tap:
            outcomes = run(runtime, requests.values())
        assert max(len({row.slot for row in batch.rows}) for batch in tap.batches) == 4
    for (name, item), outcome in zip(requests.items(), outcomes, strict=True):
        expected = logits(oracles[name], [*item.prompt, *outcome.token_ids[:-1]])
        expected = expected[len(item.prompt) - 1 :]
        assert torch.equal(expected.argmax(-1), torch.tensor(outcome.token_ids))
        assert (tap.of(item) - expected).abs().max() / expected.abs().max() < 1e-3
