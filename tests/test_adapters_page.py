"""docs/adapters.md says what the code does, and all that it says has been tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from motet_adapters.families import FAMILIES
from motet_adapters.families.page import END, START, filled, tables

from tests.adapters_store.families.test_refused import NOT_SERVED
from tests.support.family_cases import BESIDES, names

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"


def test_the_page_is_what_the_families_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == filled(page), "run: python -m motet_adapters.families.page docs/adapters.md"


def test_every_family_that_is_served_has_its_oracle_case_and_every_case_its_family() -> None:
    served = {family.name for family in FAMILIES if family.status == "served"}
    # Pfeiffer's adapters are in the row of Houlsby's.
    assert served == set(names()) - set(BESIDES) - {"pfeiffer"}


def test_every_row_of_the_page_is_a_family_with_its_test() -> None:
    """Served: the oracle's cases, as above. Refused: the test of `NOT_SERVED`."""
    page = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    served, _, refused = page.partition("### Refused")
    assert _titles(served) == [f.title for f in FAMILIES if f.status == "served"]
    assert _titles(refused) == [f.title for f in NOT_SERVED]


def _titles(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]


def test_every_family_is_named_once_with_its_paper() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.paper_url.startswith("https://"), family.name
        assert family.title in tables()


def test_a_page_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        filled(f"{START} and no end")
    assert filled(f"a{START}b{END}c").startswith("a")
