"""The tables of docs/adapters.md, made of the families themselves.

    python -m motet_adapters.families.page docs/adapters.md

writes them between the page's markers.
"""

import sys
from pathlib import Path

from motet_adapters.families import FAMILIES
from motet_adapters.families.family import Family

START, END = "<!-- families: made by motet_adapters.families.page -->", "<!-- end of families -->"


def tables() -> str:
    """Markdown: what is served, and what is refused with what to do instead."""
    served = [family for family in FAMILIES if family.status == "served"]
    others = [family for family in FAMILIES if family.status != "served"]
    lines = [
        "### Served",
        "",
        "| family | `peft_type` | formula | lowered to | rank | memory a linear | paper |",
        "|---|---|---|---|---|---|---|",
        *(_served(family) for family in served),
        "",
        "### Refused, with what to do instead",
        "",
        "| family | `peft_type` | formula | lowered to with `lossy=true` | what to do | paper |",
        "|---|---|---|---|---|---|",
        *(_refused(family) for family in others),
    ]
    return "\n".join(lines)


def _served(family: Family) -> str:
    cells = (
        family.title,
        _code(family.peft_type),
        _code(family.formula),
        _code(family.lowering),
        family.rank_after,
        family.memory,
        _link(family.paper_url),
    )
    return _row(*cells)


def _refused(family: Family) -> str:
    lossy = "refused"
    if family.status == "lossy":
        lossy = f"{_code(family.lowering)}: {family.memory}"
    fix = family.fix[:1].upper() + family.fix[1:]
    cells = (_code(family.peft_type), _code(family.formula), lossy, fix, _link(family.paper_url))
    return _row(family.title, *cells)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _link(url: str) -> str:
    name = url.rstrip("/").rpartition("/")[2]
    label = f"arXiv {name}" if "arxiv.org" in url else name
    return f"[{label}]({url})" if url else ""


def filled(page: str) -> str:
    """A page with its tables renewed. Raises ValueError if it has no markers."""
    before, _, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page needs the markers {START} and {END}")
    return f"{before}{START}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
