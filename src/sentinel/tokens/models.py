"""Model names: which row of a table is meant by the name that a client sent."""

from collections.abc import Mapping
from typing import TypeVar

Row = TypeVar("Row")

# Names longer than this are nobody's model. It bounds what the callers' caches keep per entry.
MAX_NAME_CHARS = 96

_BOUNDARY = frozenset(("", "-", ":"))


def known_part(model: str) -> str:
    """Return the part of a model name that tables are asked with: no fine-tune mark, bounded length."""
    return model[:MAX_NAME_CHARS].removeprefix("ft:")


def longest_match(table: Mapping[str, Row], model: str, default: Row) -> Row:
    """Return the row with the longest key that matches `model`, else `default`.

    A key matches the whole name or its start up to `-` or `:` (`gpt-4` matches `gpt-4-0613` and the fine-tune
    `ft:gpt-4:acme`, not `gpt-4o`). A key ending in `*` matches every continuation (`gpt-5*` matches `gpt-5.1`).
    """
    name = known_part(model)
    best, best_length = default, -1
    for key, row in table.items():
        stem = key.removesuffix("*")
        if len(stem) <= best_length or not name.startswith(stem):
            continue
        if key.endswith("*") or name[len(stem) : len(stem) + 1] in _BOUNDARY:
            best, best_length = row, len(stem)
    return best
