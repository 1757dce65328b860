"""What is read of answers in chat's format."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.proxy.translation.chat_reading import CallPiece, Calls, Said, said


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "a"}, Said("", "a", "", [])),
        ({"content": None, "refusal": "no"}, Said("", "", "no", [])),
        ({"reasoning": "r", "reasoning_content": "r"}, Said("r", "", "", [])),
        ({"reasoning": "r"}, Said("r", "", "", [])),
        ({"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]}, Said("t", "a", "", [])),
        ({"content": [5]}, Said("", "", "", [])),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]}, Said("t", "", "", [])),
        ({"content": 5, "reasoning": [], "tool_calls": {}}, Said("", "", "", [])),
        ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]},
         Said("", "", "", [CallPiece(-1, "c", "f", '{"a":1}')])),
        ({"tool_calls": [{"index": 2, "function": 7}, 7]}, Said("", "", "", [CallPiece(2, "", "", "")])),
        (None, Said("", "", "", [])),
    ],
)  # fmt: skip
def test_each_provider_says_it_in_its_own_way(message: Any, expected: Said) -> None:
    """And what does not fit says nothing."""
    assert said(message) == expected


@pytest.mark.parametrize(
    ("pieces", "numbers"),
    [
        ([(0, "a", "f"), (0, "", ""), (1, "b", "f"), (1, "", ""), (0, "", "")], [0, 0, 1, 1, 0]),
        ([(0, "a", "f"), (0, "b", "f"), (0, "", "")], [0, 1, 1]),
        ([(0, "a", "f"), (0, "a", "f")], [0, 0]),
        ([(-1, "a", "f"), (-1, "", ""), (-1, "b", "f"), (-1, "", "")], [0, 0, 1, 1]),
        ([(-1, "", "f"), (-1, "", "f")], [0, 1]),
        ([(-1, "", "")], [0]),
    ],
)
def test_calls_are_told_apart(pieces: list[tuple[int, str, str]], numbers: list[int]) -> None:
    """By their index, or by their id where a provider gives all calls the same index, or by their order."""
    calls = Calls()
    assert [calls.number(CallPiece(*piece, ""))[0] for piece in pieces] == numbers


def test_a_call_begins_once() -> None:
    """With its first piece."""
    calls = Calls()
    assert [calls.number(CallPiece(0, id_, "", ""))[1] for id_ in ("a", "", "b", "b")] == [True, False, True, False]
