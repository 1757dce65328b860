"""A secret blotted out, however it is spelled; and nothing else changed."""

from __future__ import annotations

import html
import json
import string
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.redaction import BLOT, LEAST_IN_ANSWERS, LEAST_IN_ERRORS, NO_SECRET, Redactor, StreamRedactor

KEY = "sk-proj-aB3_/x\"y\\z'&<w>=+%0a~12345"
VISIBLE = "".join(sorted(set(string.printable) - set(string.whitespace)))
SPELLINGS = {
    "as it is": str,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON with slashes escaped": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "JSON in escapes alone": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "JSON in large escapes": lambda key: "".join(f"\\u{ord(c):04X}" for c in key),
    "JSON for HTML": lambda key: json.dumps(key)[1:-1].translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&'"}),
    "JSON within JSON": lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
    "a URL": lambda key: quote(key, safe=""),
    "HTML": html.escape,
    "HTML by numbers": lambda key: "".join(f"&#{ord(c)};" for c in key),
}
keys = st.text(VISIBLE, min_size=LEAST_IN_ANSWERS, max_size=60)


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@given(
    key=keys | st.just(KEY), before=st.sampled_from(["", "Bearer ", "s", "\\n", "sk-proj-"]), after=st.text(max_size=3)
)
def test_a_refusal_is_blotted_in_every_spelling(spell: object, key: str, before: str, after: str) -> None:
    """What is around it stays as it was."""
    spelled = spell(key)  # type: ignore[operator]
    text = f"{before}{spelled}{after}" * 2
    blotted = Redactor(key).every_spelling(text.encode())
    if spelled not in f"{before}{after}{before}":
        assert blotted.count(BLOT) >= 2
    assert spelled.encode() not in blotted


@given(keys, st.binary(max_size=40), st.binary(max_size=40))
def test_an_answer_is_blotted_as_it_is(key: str, before: bytes, after: bytes) -> None:
    """The key alone is taken out, each time that it comes."""
    secret = key.encode()
    blotted = Redactor(key).plain(b"%b%b%b%b" % (before, secret, after, secret))
    assert secret not in blotted
    assert blotted.count(BLOT) >= 2


@given(st.binary(max_size=300))
def test_what_holds_no_key_is_not_even_copied(data: bytes) -> None:
    """Bytes pass through (P3)."""
    redactor = Redactor(KEY)
    assert redactor.plain(data) is data
    assert redactor.every_spelling(data) is data


@pytest.mark.parametrize("masked", ["sk-proj-...2345", "sk-p****************2345", "sk-proj-", KEY[:-1], KEY[1:]])
def test_a_part_of_the_key_is_no_key(masked: str) -> None:
    """What the provider has masked helps its owner, and nobody else."""
    assert Redactor(KEY).every_spelling(masked.encode()) == masked.encode()


@pytest.mark.parametrize("step", range(30_000, 34_000, 7))
def test_the_key_is_found_at_any_place(step: int) -> None:
    """Also where two steps meet, and twice in a row."""
    spelled = "".join(f"\\u{ord(c):04x}" for c in KEY).encode()
    text = b"x" * step + spelled + KEY.encode() + b"y" * 40_000 + spelled
    assert Redactor(KEY).every_spelling(text) == b"x" * step + BLOT * 2 + b"y" * 40_000 + BLOT


def test_a_word_is_no_secret() -> None:
    """Servers of one's own are given keys such as EMPTY: no text may be spoilt for them."""
    for word in ("EMPTY", "none", "x", "k" * (LEAST_IN_ERRORS - 1)):
        assert Redactor(word).every_spelling(word.encode()) == word.encode()
    for word in ("lm-studio", "sk-no-key-required", "k" * (LEAST_IN_ANSWERS - 1)):
        assert Redactor(word).plain(word.encode()) == word.encode()
        assert Redactor(word).every_spelling(word.encode()) == BLOT
    assert NO_SECRET.plain(b"") == NO_SECRET.every_spelling(b"") == b""


@given(
    key=keys | st.just(KEY),
    text=st.lists(st.sampled_from(["KEY", "HALF", "s", "sk-", "word "]), max_size=8),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_a_stream_is_blotted_and_keeps_its_length(key: str, text: list[str], cuts: list[int]) -> None:
    """Cut anywhere."""
    whole = "".join({"KEY": key, "HALF": key[: len(key) // 2]}.get(each, each) for each in text).encode()
    redactor, ends = (
        StreamRedactor(Redactor(key), keeps_length=True),
        [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)],
    )
    passed = b"".join(redactor.feed(whole[a:b]) for a, b in pairwise(ends)) + redactor.rest()
    assert len(passed) == len(whole)
    assert key.encode() not in passed
    assert passed == Redactor(key).same_length(whole)
    redactor = StreamRedactor(Redactor(key), keeps_length=False)
    passed = b"".join(redactor.feed(whole[a:b]) for a, b in pairwise(ends)) + redactor.rest()
    assert passed == Redactor(key).plain(whole)


def test_a_word_is_left_in_a_stream() -> None:
    """As in answers."""
    redactor = StreamRedactor(Redactor("EMPTY"), keeps_length=True)
    assert redactor.feed(b"EMPTY E") + redactor.rest() == b"EMPTY E"
