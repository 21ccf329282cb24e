"""From measured rounds to the table and the page: nothing is measured here."""

import select
import sys

import pytest

from benchmarks.serving.child import Child, plain_environment
from benchmarks.serving.load import Answers, Load, adapter_names, loads, random_prompts
from benchmarks.serving.measure import measure
from benchmarks.serving.results import Outcome, Results
from benchmarks.serving.system import Batch, Refused, Run
from benchmarks.serving.table import markdown

MIXED = Load(8, 8, num_dora=4)


class Steady:
    """Answers at its own speed and keeps what it was asked."""

    def __init__(self, name: str, tokens_per_s: float) -> None:
        self.name = name
        self._tokens_per_s = tokens_per_s
        self.batches: list[Batch] = []

    def start(self, adapters):
        return "steady"

    def run(self, batch):
        self.batches.append(batch)
        num_tokens = len(batch.prompts) * batch.num_tokens
        return Run(num_tokens, num_tokens / self._tokens_per_s)

    def close(self):
        pass


class NoDora(Steady):
    def run(self, batch):
        if any(name is not None and name.startswith("dora") for name in batch.adapters):
            raise Refused("no DoRA here")
        return super().run(batch)


def test_loads_have_no_more_adapters_than_requests_and_the_mixed_one_where_it_fits():
    assert list(loads([1, 8], [0, 1, 8, 32])) == [
        Load(1, 0),
        Load(1, 1),
        Load(8, 0),
        Load(8, 1),
        Load(8, 8),
        MIXED,
    ]


def test_a_load_spreads_its_requests_evenly():
    spread = Load(32, 8, num_dora=4).adapters()
    assert sorted({spread.count(name) for name in spread}) == [4]
    assert sum(name.startswith("dora") for name in spread) == 16
    assert Load(3, 0).adapters() == [None, None, None]
    assert adapter_names([Load(8, 1), MIXED]) == sorted(set(MIXED.adapters()))


def test_every_round_has_prompts_of_its_own_and_all_systems_get_the_same():
    systems = [Steady("Motet", 100.0), NoDora("Other", 50.0)]
    outcomes = measure(systems, Load(8, 8), Answers(prompt_len=5, num_tokens=4), rounds=2)
    assert [outcome.tokens_per_s for outcome in outcomes] == [[100.0, 100.0], [50.0, 50.0]]
    assert systems[0].batches == systems[1].batches
    prompts = [tuple(prompt) for batch in systems[0].batches for prompt in batch.prompts]
    assert len(prompts) == len(set(prompts)) == 2 * 2 * 8  # two rounds, a warm-up in each
    assert random_prompts(2, 5, "a") == random_prompts(2, 5, "a") != random_prompts(2, 5, "b")


def test_the_table_shows_medians_ratios_and_refusals():
    systems = [Steady("Motet", 100.0), NoDora("Other", 40.0)]
    results = _results(systems)
    for load in (Load(8, 8), MIXED):
        results.outcomes += measure(systems, load, results.answers, rounds=1)
    results.outcomes[0].tokens_per_s = [10.0, 120.0, 90.0]
    assert markdown(results).splitlines() == [
        "| requests | adapters | Motet | Other | Motet / Other |",
        "| ---: | :--- | ---: | ---: | ---: |",
        "| 8 | 8 LoRA | 90 | 40 | 2.2 |",
        "| 8 | 4 LoRA + 4 DoRA | 100 | refused |  |",
    ]
    assert results.outcomes[-1].refused == "no DoRA here"


def test_results_survive_their_file(tmp_path):
    results = _results([Steady("Motet", 1.0)])
    results.outcomes.append(Outcome("Motet", MIXED, [1.5, 2.5]))
    results.outcomes.append(Outcome("Other", MIXED, [], "no"))
    results.write(tmp_path / "serve.json")
    assert Results.read(tmp_path / "serve.json") == results


def test_a_child_stands_still_but_while_it_is_used(tmp_path):
    """A line is answered inside a `with running()` block, and not outside one."""
    echo = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)"
    child = Child([sys.executable, "-c", echo], tmp_path / "log", plain_environment(), piped=True)
    try:
        with child.running():
            _send(child, b"first\n")
            assert child.stdout.readline() == b"first\n"
        _send(child, b"second\n")
        assert select.select([child.stdout], [], [], 0.3)[0] == []
        with child.running():
            assert child.stdout.readline() == b"second\n"
    finally:
        child.close()
    with pytest.raises(RuntimeError, match="ended"):
        child.check_alive()


def _results(systems):
    return Results(
        machine={"cpu": "one"},
        systems={system.name: system.start([]) for system in systems},
        base="tiny",
        rank=4,
        answers=Answers(prompt_len=5, num_tokens=4),
        rounds=1,
        streamed=False,
    )


def _send(child, line):
    child.stdin.write(line)
    child.stdin.flush()
