"""docs/adapters.md says what the code does, and all that it says has been tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from motet_adapters.families import FAMILIES
from motet_adapters.families.page import END, START, filled, tables

from tests.support.family_cases import names

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"


def test_the_page_is_what_the_families_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == filled(page), "run: python -m motet_adapters.families.page docs/adapters.md"


def test_every_family_that_is_served_has_its_oracle_case() -> None:
    served = {family.name for family in FAMILIES if family.status == "served"}
    assert served <= set(names())


def test_every_family_is_named_once_with_its_paper() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.paper_url.startswith("https://"), family.name
        assert family.title in tables()


def test_a_page_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        filled(f"{START} and no end")
    assert filled(f"a{START}b{END}c").startswith("a")
