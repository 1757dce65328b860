import pytest

from sentinel.tokens.models import MAX_NAME_CHARS, known_part, longest_match

TABLE = {"gpt-4": 1, "gpt-4-turbo": 2, "gpt-5*": 3}


@pytest.mark.parametrize(
    ("model", "row"),
    [("gpt-4", 1), ("gpt-4-0613", 1), ("gpt-4-turbo-preview", 2), ("gpt-4o", 0), ("gpt-45", 0), ("gpt-5.9-mini", 3),
     ("ft:gpt-4:acme::1", 1), ("", 0), ("GPT-4", 0)],
)  # fmt: skip
def test_longest_matching_key_wins(model: str, row: int) -> None:
    """A key matches a whole name or its start up to a boundary; a star matches every continuation."""
    assert longest_match(TABLE, model, 0) == row


def test_invented_names_are_cut() -> None:
    """A megabyte of model name is not kept as a cache key."""
    assert len(known_part("x" * 1_000_000)) == MAX_NAME_CHARS
