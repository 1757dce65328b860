"""How many files this process may have open."""

from __future__ import annotations

import resource

import pytest

from sentinel.server.open_files import most_connections


@pytest.mark.parametrize(
    ("files", "most"),
    [(1024, (896, 960)), (65_536, (57_344, 61_440)), (256, (128, 192)), (128, (64, 80)), (40, (20, 2))],
)
def test_some_files_are_kept_for_others_than_clients(
    monkeypatch: pytest.MonkeyPatch, files: int, most: tuple[int, int]
) -> None:
    """An eighth, and at least 128 or half of all; and some of these for neither clients nor providers."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert most_connections() == most
