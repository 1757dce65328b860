"""How many files this process may have open."""

from __future__ import annotations

import resource

import pytest

from sentinel.server.open_files import most_connections


@pytest.mark.parametrize(("files", "most"), [(1024, 896), (65_536, 57_344), (100, 1)])
def test_some_files_are_kept_for_others_than_clients(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    """An eighth, and at least 128; one client there may always be."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert most_connections() == most
