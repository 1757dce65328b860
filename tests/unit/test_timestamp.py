"""Moments as text."""

from __future__ import annotations

import pytest

from sentinel.timestamp import rfc3339


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
        (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
        (1_767_225_600_007, "2026-01-01T00:00:00.007Z"),
    ],
)
def test_a_moment_has_milliseconds(ms: int, text: str) -> None:
    """All of them, in UTC."""
    assert rfc3339(ms) == text
