"""What is particular to legacy completions: a default maximum, choices that are billed and not shown, echoes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.endpoint import OutputBound
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.output import COMPLETION_DEFAULT_TOKENS


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-3.5-turbo-instruct", "prompt": "hi", **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "choices", "shown", "client_max", "shows_its_cost"),
    [
        ({}, 1, 1, None, True),
        ({"n": 2, "best_of": 5}, 5, 2, None, True),
        ({"n": 3, "max_tokens": 7}, 3, 3, 7, True),
        ({"echo": True}, 1, 1, None, False),
    ],
)
def test_what_a_request_says_of_its_output(
    fields: dict[str, Any], choices: int, shown: int, client_max: int | None, shows_its_cost: bool
) -> None:
    """`best_of` choices are billed, `n` shown; of an echo nobody knows where the answer begins."""
    found = COMPLETIONS.bound(COMPLETIONS.read(body(**fields)))
    assert found == OutputBound(choices, shown, client_max, COMPLETION_DEFAULT_TOKENS, False, shows_its_cost, False)


def test_a_prompt_is_needed() -> None:
    """The error names it."""
    with pytest.raises(MissingParameter) as raised:
        COMPLETIONS.read(b'{"model":"m"}')
    assert raised.value.param == "prompt"


def test_the_prompt_is_forgotten_once_it_is_counted() -> None:
    """With its suffix."""
    request = COMPLETIONS.read(body(suffix=" there"))
    assert COMPLETIONS.count(request, TokenCounter()) == 2
    COMPLETIONS.forget_prompt(request)
    assert (request.prompt, request.suffix) == (None, None)


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 50}])
def test_a_maximum_is_told_by_the_name_that_completions_have_for_it(fields: dict[str, Any]) -> None:
    """In either case there is one field afterwards."""
    sent = body(**fields)
    request = COMPLETIONS.read(sent)
    changes = COMPLETIONS.changes(request, COMPLETIONS.bound(request), 7)
    assert json.loads(COMPLETIONS.changed(sent, request, changes))["max_tokens"] == 7
