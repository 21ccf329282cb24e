"""Which layers run in one call, and that a layer which would answer otherwise does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.layers import StackedLayer
from motet.errors import InvalidSetting
from motet_kernels import LayerOps, select_ops

from tests.support.serving import served
from tests.support.tiny_models import SERVED, make_checkpoint

CPU = torch.device("cpu")
CPU_INFO = Path("/proc/cpuinfo").read_text()

# Of each model's layers, those in one call; the others have parts of another form, or are of this
# form by their parts and differ in what they compute (granite scales its residuals, and a layer of
# smollm3 has no rotary embedding).
IN_ONE_CALL = {
    "llama": [0, 1],
    "llama_tied": [0, 1, 2, 3],
    "llama_odd": [0, 1],
    "mistral": [0, 1],
    "qwen2": [0, 1],
    "qwen3": [0, 1],
    "smollm3": [0],
}


@pytest.mark.skipif(not isinstance(select_ops(CPU), LayerOps), reason="torch's kernels serve here")
@pytest.mark.parametrize("name", SERVED)
def test_layers_of_the_known_form_run_in_one_call(name: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    with served(checkpoint, tmp_path / "data") as runtime:
        model = runtime.engine._model
        found = [
            int(path.rsplit(".", 1)[1])
            for path, module in model._model.named_modules()
            if isinstance(module, StackedLayer)
        ]
        assert found == IN_ONE_CALL.get(name, [])
        assert model.num_one_call_layers == len(found)


def test_torch_s_kernels_serve_where_they_are_asked_for(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", cpu_kernels="torch") as runtime:
        assert runtime.kernels.implementation == "cpu"
        assert runtime.num_one_call_layers == 0


@pytest.mark.skipif("amx_bf16" in CPU_INFO, reason="it can here")
def test_kernels_that_cannot_run_here_are_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with (
        pytest.raises(InvalidSetting, match="use cpu_kernels=auto"),
        served(checkpoint, tmp_path / "data", cpu_kernels="amx-bf16"),
    ):
        pass


@pytest.mark.parametrize(
    "more", [{"dtype": "float32"}, {"dtype": "bfloat16", "cpu_kernels": "torch"}]
)
def test_fast_math_that_does_not_fit_is_refused_on_a_cpu(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with (
        pytest.raises(InvalidSetting, match="leave fast_math off") as refused,
        served(checkpoint, tmp_path / "data", fast_math=True, **more),
    ):
        pass
    assert refused.value.param == "fast_math"


@pytest.mark.skipif(
    "avx512_vnni" not in CPU_INFO or "avx512_bf16" not in CPU_INFO or "amx_bf16" in CPU_INFO,
    reason="fast_math has no use here",
)
def test_fast_math_rounds_the_layers_and_the_head(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", dtype="bfloat16") as exact:
        expected, exact_bytes = exact.probe_difference, exact.weight_bytes
    with served(checkpoint, tmp_path / "data", dtype="bfloat16", fast_math=True) as runtime:
        assert runtime.kernels.implementation == "cpu-native (avx512-vnni)"
        assert runtime.num_one_call_layers > 0
        assert expected < runtime.probe_difference < 0.15
        assert runtime.weight_bytes > exact_bytes  # the rounded head lies beside the other one


def test_something_between_two_layers_is_noticed(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data") as runtime:
        stacked = [
            module
            for module in runtime.engine._model._model.modules()
            if isinstance(module, StackedLayer)
        ]
        if not stacked:
            pytest.skip("torch's kernels serve here")
        with pytest.raises(RuntimeError, match="came between"):
            stacked[1].stack.computed(torch.zeros(1, 1, 64))
