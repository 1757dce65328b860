"""A text that a regular expression matches: plain values in, plain values out."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

# There is no public way to a pattern's parts. Should these modules go, only simulated patterns go with them.
op: Any = import_module("re._constants")
_parser: Any = import_module("re._parser")

_CATEGORIES = {
    op.CATEGORY_DIGIT: "7",
    op.CATEGORY_WORD: "a",
    op.CATEGORY_SPACE: " ",
    op.CATEGORY_NOT_DIGIT: "a",
    op.CATEGORY_NOT_WORD: "-",
    op.CATEGORY_NOT_SPACE: "a",
}
_TRIED = "a7A-_ .:/@" + "".join(map(chr, range(33, 127)))
_MOST_REPEATS = 1_000
_LEAST_TRIES = 2


class NoExample(ValueError):
    """No text was found that fits; the message says to what."""


def example_of(pattern: str, least: int = 0, most: int | None = None) -> str:
    """A text in which `pattern` is found, as JSON Schema means it, with so many characters. Raises NoExample."""
    try:
        parsed, compiled = _parser.parse(pattern), re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as cause:
        raise NoExample(f"pattern {pattern!r} is no regular expression") from cause
    for more in range(max(least, _LEAST_TRIES) + 1):
        text = _Writer(more).text(parsed)
        if not pattern.endswith("$"):
            text += "a" * (least - len(text))
        if len(text) >= least and (most is None or len(text) <= most) and compiled.search(text):
            return text
    raise NoExample(f"no text was found for the pattern {pattern!r}")


class _Writer:
    """Writes what a parsed pattern asks for, each repetition so much more often than it must be."""

    def __init__(self, more: int) -> None:
        self._more = more
        self._groups: dict[int, str] = {}

    def text(self, parts: Any) -> str:
        return "".join(self._part(code, value) for code, value in parts)

    def _part(self, code: Any, value: Any) -> str:
        if code is op.LITERAL:
            return chr(value)
        if code is op.NOT_LITERAL:
            return next(char for char in _TRIED if ord(char) != value)
        if code is op.ANY:
            return "a"
        if code is op.IN:
            return self._one_of(value)
        if code in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, inner = value
            return "".join(self.text(inner) for _ in range(min(least + self._more, most, _MOST_REPEATS)))
        if code is op.BRANCH:
            return self.text(value[1][0])
        if code is op.SUBPATTERN:
            self._groups[value[0]] = text = self.text(value[-1])
            return text
        if code is op.ATOMIC_GROUP:
            return self.text(value)
        if code is op.GROUPREF:
            return self._groups.get(value, "")
        # Places, and looks ahead or behind, write nothing; whether they hold is seen in the end.
        return ""

    def _one_of(self, members: Any) -> str:
        codes = [code for code, _ in members]
        if codes[0] is op.NEGATE:
            return next(
                (char for char in _TRIED if not any(_holds(code, value, char) for code, value in members[1:])), "a"
            )
        code, value = members[0]
        if code is op.LITERAL:
            return chr(value)
        return chr(value[0]) if code is op.RANGE else _CATEGORIES[value]


def _holds(code: Any, value: Any, char: str) -> bool:
    if code is op.LITERAL:
        return ord(char) == value  # type: ignore[no-any-return]
    if code is op.RANGE:
        return value[0] <= ord(char) <= value[1]  # type: ignore[no-any-return]
    is_word = char.isalnum() or char == "_"
    holds = {op.CATEGORY_DIGIT: char.isdigit(), op.CATEGORY_WORD: is_word, op.CATEGORY_SPACE: char.isspace()}
    if value in holds:
        return holds[value]
    return not {
        op.CATEGORY_NOT_DIGIT: char.isdigit(),
        op.CATEGORY_NOT_WORD: is_word,
        op.CATEGORY_NOT_SPACE: char.isspace(),
    }[value]
