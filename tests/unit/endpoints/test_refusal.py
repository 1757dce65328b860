"""What a provider said when it refused what was told to be a stream."""

from __future__ import annotations

import pytest

from sentinel.endpoints.refusal import refusal_of


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        (b'{"error":{"message":"no"}}', {"message": "no"}, ""),
        (b'{"error":"no"}', None, "no"),
        (b'{"detail":"no"}', None, '{"detail":"no"}'),
        (b"no" * 1000, None, "no" * 500),
        (b"", None, "The model provider refused the request."),
    ],
)
def test_its_error_or_what_there_is_to_tell(body: bytes, error: dict[str, str] | None, told: str) -> None:
    """An object is passed on as it is; of anything else the beginning is told."""
    assert refusal_of(body)[1:] == (error, told)
