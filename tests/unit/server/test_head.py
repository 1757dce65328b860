"""The rules for a request head."""

from __future__ import annotations

import pytest

from sentinel.server import head


@pytest.mark.parametrize(
    ("hosts", "version", "is_right"),
    [
        ([b"a.test:80"], "1.1", True),
        ([b"[::1]:80"], "1.1", True),
        ([], "1.0", True),
        ([], "1.1", False),
        ([b"a", b"a"], "1.1", False),
        ([b"a", b"a"], "1.0", False),
        ([b"a,b"], "1.1", False),
        ([b"a b"], "1.0", False),
    ],
)
def test_a_head_names_one_host(hosts: list[bytes], version: str, is_right: bool) -> None:
    """HTTP/1.0 may go without."""
    assert head.names_one_host(hosts, version) is is_right


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (b"/a%20b?c=%20", ("/a b", b"/a%20b", b"c=%20")),
        (b"http://host/a?b", ("/a", b"/a", b"b")),
        (b"/a#b?c", ("/a", b"/a", b"")),
    ],
)
def test_a_target_is_path_and_query(url: bytes, target: tuple[str, bytes, bytes]) -> None:
    """The path decoded; a fragment is no part of it."""
    assert head.target_of(url) == target


def test_the_path_of_a_broken_target_is_what_has_come() -> None:
    """Nothing of the query."""
    assert head.path_in(b"/\xff%41?k") == "/\xffA"
    assert head.path_in(b"") == ""


def test_a_head_has_the_size_of_its_lines() -> None:
    """With colons, blanks and line ends."""
    assert head.size_of(b"/ab", [(b"a", b"bc"), (b"d", b"")]) == 3 + 7 + 5
