"""Orders in prompts."""

from __future__ import annotations

import pytest

from sentinel.dev.directive import NONE, BadDirective, Directive, find_directive


def test_all_kinds_of_values() -> None:
    """Numbers, flags, words and texts are read as what they are."""
    found = find_directive("Hi! [[tokens=200 delay=0.01 no_usage split=utf8 retry_after=2 tool=no]] bye")
    assert found == Directive(tokens=200, delay=0.01, no_usage=True, split="utf8", retry_after="2", tool=False)


@pytest.mark.parametrize("text", ["", "hello", "[[", "]]", "]] [[", "[[]]"])
def test_no_directive(text: str) -> None:
    """Brackets alone order nothing."""
    assert find_directive(text) == NONE


def test_the_last_one_counts() -> None:
    """Of two directives the later one holds."""
    assert find_directive("[[tokens=1]] [[tokens=2]]").tokens == 2


@pytest.mark.parametrize("text", ["[[token=2]]", "[[tokens=x]]", "[[delay=soon]]", "[[split=byte]]"])
def test_mistakes_are_named(text: str) -> None:
    """A typo is told, not ignored."""
    with pytest.raises(BadDirective, match=r"token|delay|split"):
        find_directive(text)


def test_how_long_an_answer_takes() -> None:
    """Delays lie between chunks."""
    assert Directive(first_delay=1.0, delay=0.5).seconds(3) == 2.0
    assert NONE.seconds(100) == 0
