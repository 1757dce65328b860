"""docs/clients.md tells of the clients that are tried, at the versions that are locked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sentinel.proxy.translate import Translator
from tests.clients.roster import DIRECT, LOCKS, MODELS, ROWS, TRANSLATED, Row, page_rows

PROGRAMS = Path(__file__).parents[1] / "clients/programs"


def test_the_page_has_each_client() -> None:
    """Names, versions, routes and cases are those of the list; `make clients` writes them."""
    assert list(page_rows()) == [row.told for row in (*DIRECT, *TRANSLATED)]


def test_each_pair_of_formats_is_tried() -> None:
    """So that what is translated is tried by those that it is for."""
    pairs = {(one, other) for one in MODELS for other in MODELS if Translator.of(one, other) is not None}
    assert {(row.format, row.provider) for row in TRANSLATED} == pairs


def test_the_page_says_what_came_of_each() -> None:
    """Nothing on it was not tried, and nothing fails without a word on why."""
    assert [told for told, result in page_rows().items() if not result.startswith("works")] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.client}-{row.way}")
def test_each_has_its_program(row: Row) -> None:
    """And the program has all of its cases by name, or takes them from another one of its own."""
    assert row.program is not None
    text = (PROGRAMS / row.program).read_text()
    assert [case for case in row.cases if not re.search(rf"\b{case}\b", text)] == []


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_locks_have_hashes_and_no_addresses(lock: Path) -> None:
    """So that what is tried is what was read, from whichever registry."""
    text = lock.read_text()
    assert len(re.findall(r"^[a-z][\w.-]*==", text, re.MULTILINE)) <= text.count("--hash=sha256:")
    assert "://" not in text


def test_the_lock_of_npm_has_hashes_and_no_addresses() -> None:
    """As those of Python have."""
    text = (LOCKS / "package-lock.json").read_text()
    assert text.count('"integrity"') == text.count('"node_modules/')
    assert '"resolved"' not in text
