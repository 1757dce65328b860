"""What is learned of a provider's counts: only where ours is an estimate, and within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.input_ratio import LEAST, MOST, InputRatio

CLAUDE = "claude-sonnet-5-5"
OPEN = "some-open-model"


def test_the_next_estimate_is_corrected() -> None:
    """By the first answer at once, by those that follow little by little; for this model alone."""
    ratio = InputRatio()
    assert ratio.corrected(OPEN, 100) == 100
    ratio.note(OPEN, 100, 130)
    assert ratio.corrected(OPEN, 100) == 130
    assert ratio.corrected("llama4", 100) == 100
    ratio.note(OPEN, 100, 230)
    assert ratio.corrected(OPEN, 100) == 150


def test_an_exact_count_stays_and_nothing_is_learned_of_nothing() -> None:
    """OpenAI's own models, and requests without input."""
    ratio = InputRatio()
    ratio.note("gpt-4o", 100, 200)
    ratio.note(OPEN, 0, 7)
    assert (ratio.corrected("gpt-4o", 100), ratio.corrected(OPEN, 100)) == (100, 100)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**9)), min_size=1))
def test_it_stays_within_its_bounds(answers: list[tuple[int, int]]) -> None:
    """Whatever a provider tells."""
    ratio = InputRatio()
    for counted, told in answers:
        ratio.note(OPEN, counted, told)
    assert LEAST * 1000 <= ratio.corrected(OPEN, 1000) <= MOST * 1000


def test_few_models_are_remembered() -> None:
    """The one that was not heard of for the longest time is forgotten."""
    ratio = InputRatio(most_models=2)
    for model in ("a", "b", "a", "c"):
        ratio.note(model, 10, 20)
    assert [ratio.corrected(model, 10) for model in ("a", "b", "c")] == [20, 10, 20]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        *(("claude-sonnet-5-5", 160), ("claude-opus-4-8", 160), ("anthropic/claude-opus-4.7", 160), ("claude-x", 160)),
        *(
            ("claude-opus-4-6", 125),
            ("claude-opus-4-20250514", 125),
            ("claude-sonnet-4.5", 125),
            ("claude-3-haiku", 125),
        ),
        *(("gpt-4o", 100), ("gemini-3-pro", 100), ("qwen3-8b", 100), ("not-claude", 100), ("", 100)),
    ],
)
def test_a_first_guess(model: str, expected: int) -> None:
    """Of Claude's models by what their vendor says; of others no better one is known than 1. An answer replaces it."""
    ratio = InputRatio()
    assert ratio.corrected(model, 100) == expected
    ratio.note(model, 100, 150)
    assert ratio.corrected(model, 100) == (100 if model == "gpt-4o" else 150)
