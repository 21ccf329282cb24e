"""The page is written from the benchmarks' files, and only between its markers."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.products import tables
from benchmarks.serving.load import Answers, Load
from benchmarks.serving.results import Outcome, Results

ROOT = Path(__file__).parents[2]

KERNELS = {
    "machine": {"cpu": "one"},
    "kernels": "cpu-native (portable)",
    "rounds": 2,
    "peaks": {
        "read_bytes_per_s": 20e9,
        "flops_per_s": 100e9,
        "dot_flops_per_s": 100e9,
        "torch_flops_per_s": 90e9,
        "instruction": "float fma",
    },
    "linears": [
        {
            "model": "tiny",
            "n": 8,
            "k": 64,
            "rows": 2,
            "ours_s": 4e-6,
            "torch_s": 6e-6,
            "bitsandbytes_s": 40e-6,
            "num_bytes": 20e3,
            "flops": 200e3,
        }
    ],
    "adapters": {
        "base_s": 100e-6,
        "lora_s": 150e-6,
        "dora_s": 155e-6,
        "torch_base_s": 200e-6,
        "torch_lora_s": 400e-6,
        "read_s": 25e-6,
    },
    "promise": [{"rows": 4, "torch_s": 10e-6, "torch_padded_s": 12e-6, "ours_s": 8e-6}],
}


def test_the_linears_table_says_what_is_left_to_win():
    line = tables.linears(KERNELS).splitlines()[-1]
    assert line == "| 8 x 64 | 2 | 4.0 | 25% | 50% | 1.50 | 3.00 | 10.0 | 20.0 |"


def test_what_adapters_add_is_held_against_reading_them():
    text = tables.adapters(KERNELS)
    assert "| LoRA adds | 50 | 2.00 x reading the adapters' bytes |" in text
    assert "| with 8 DoRA adapters | 155 | 1.03 x LoRA |" in text
    assert "4.0 x ours" in text
    assert tables.promise(KERNELS).endswith("| 4 | 10 | 12 | 1.20 | 8 | 0.80 |")


def test_only_what_stands_between_the_markers_is_replaced(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- kernels -->\nold\n<!-- end of kernels -->\nafter\n")
    kernels = tmp_path / "kernels.json"
    kernels.write_text(json.dumps(KERNELS))
    arguments = ["--serve", str(tmp_path / "none"), "--kernels", str(kernels), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    for _ in range(2):  # and again: the markers are still there
        report.main()
        text = page.read_text()
        assert text.startswith("before\n<!-- kernels -->\n")
        assert text.endswith("<!-- end of kernels -->\nafter\n")
        assert "old" not in text
        assert "| 8 x 64 | 2 |" in text


def test_the_plot_is_drawn_beside_the_page(tmp_path):
    loads = [Load(8, 0), Load(8, 8), Load(8, 8, num_dora=4)]
    outcomes = [Outcome("Motet", load, [100.0 - load.num_adapters]) for load in loads]
    outcomes += [Outcome("Other", load, [50.0]) for load in loads[:2]]
    outcomes.append(Outcome("Other", loads[2], [], "no DoRA here"))
    results = Results(
        machine={"cpu": "one"},
        systems={"Motet": "0", "Other": "1"},
        base="tiny",
        rank=4,
        answers=Answers(prompt_len=5, num_tokens=4),
        rounds=1,
        streamed=False,
        outcomes=outcomes,
    )
    assert '- Other refused: "no DoRA here"' in report.serving_section(results)
    report.plot.draw(results, tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(ValueError, match="0 times"):
        report.replaced("no markers", "kernels", "text")


def test_the_page_of_the_repository_has_its_markers():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in ("serving", "kernels"):
        assert "new" in report.replaced(page, name, "new")
