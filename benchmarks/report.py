"""Writes the measured tables and the plot into docs/performance.md from the benchmarks' JSON.

    make bench-report          (benchmarks/results/*.json to docs/performance.md and .png)

A table stands between <!-- NAME --> and <!-- end of NAME -->; what is between is replaced. Nothing
is measured here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

if not __package__:  # run as a file rather than by `python -m benchmarks.report`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.products import tables
from benchmarks.serving import plot
from benchmarks.serving.results import Results
from benchmarks.serving.table import markdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FEW_ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serve", type=Path, default=RESULTS / "serve.json")
    parser.add_argument("--kernels", type=Path, default=RESULTS / "kernels.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    page = options.page.read_text(encoding="utf-8")
    if options.serve.exists():
        results = Results.read(options.serve)
        page = replaced(page, "serving", serving_section(results))
        plot.draw(results, options.page.with_suffix(".png"))
    if options.kernels.exists():
        document = json.loads(options.kernels.read_text(encoding="utf-8"))
        page = replaced(page, "kernels", kernels_section(document))
    options.page.write_text(page, encoding="utf-8")


def serving_section(results: Results) -> str:
    facts = dict(results.machine)
    facts |= results.systems
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    refusals = {outcome.system: outcome.refused for outcome in results.outcomes if outcome.refused}
    answers = results.answers
    how = (
        f"{results.base}; adapters of rank {results.rank} on all seven projections; prompts of "
        f"{answers.prompt_len} tokens, {answers.num_tokens} generated; tokens per second, median "
        f"of {results.rounds} round{'' if results.rounds == 1 else 's'}; "
        f"{'streamed' if results.streamed else 'whole'} replies."
    )
    said = [f'- {system} refused: "{reason}"' for system, reason in refusals.items()]
    parts = [caution(results.rounds), "\n".join(lines), how, markdown(results), "\n".join(said)]
    return "\n\n".join(part for part in parts if part)


def kernels_section(document: dict[str, object]) -> str:
    machine = document["machine"]
    assert isinstance(machine, dict)
    facts = [f"- {name}: {value}" for name, value in machine.items()]
    facts.append(f"- kernels: {document['kernels']}, best of {document['rounds']} rounds")
    parts = [
        caution(int(str(document["rounds"]))),
        "\n".join(facts),
        tables.peaks(document),
        "### Linears",
        tables.linears(document),
        "### Adapters",
        tables.adapters(document),
        "### What row independence costs",
        tables.promise(document),
    ]
    return "\n\n".join(part for part in parts if part)


def caution(rounds: int) -> str:
    """Said of figures that came from too few rounds to be quoted; else nothing."""
    if rounds >= FEW_ROUNDS:
        return ""
    return f"**Preliminary**: {rounds} round{'' if rounds == 1 else 's'}, not for quoting."


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`. Raises ValueError if they are not there
    exactly once."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    between = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    result, count = between.subn(lambda _: f"{begin}\n{text}\n{end}", page)
    if count != 1:
        raise ValueError(f"the page must have {begin} and {end} once; it has them {count} times")
    return result


if __name__ == "__main__":
    main()
