"""Bodies: what is read of them, what is wrong with them, and the least change that they may need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.endpoint import UNCHANGED, Changes
from sentinel.endpoints.strict_json import MOST_DIGITS
from sentinel.error import InvalidJson, InvalidType, MissingParameter

read_chat, read_completion = CHAT.read, COMPLETIONS.read

MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
bounds = st.none() | st.integers(0, 2**31 - 1)
options = st.none() | st.dictionaries(st.sampled_from(["include_usage", "x"]), st.booleans() | st.none(), max_size=2)
KNOWN = {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
extras = st.dictionaries(st.text(max_size=6).filter(lambda name: name not in KNOWN), values, max_size=4)
spaces = st.sampled_from(["", " ", "\n", "\r\n\t "])


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [], **fields}).encode()


@given(
    extra=extras,
    stream_options=options,
    max_tokens=bounds,
    max_completion_tokens=bounds,
    ask=st.booleans(),
    most=bounds,
    before=spaces,
    after=spaces,
    ascii_only=st.booleans(),
)
def test_only_what_must_change_changes(
    extra: dict[str, Any],
    stream_options: Any,
    max_tokens: int | None,
    max_completion_tokens: int | None,
    ask: bool,
    most: int | None,
    before: str,
    after: str,
    ascii_only: bool,
) -> None:
    """Whatever a body holds: usage is asked for, no bound is above the given one, all else is as it was."""
    named = {"stream_options": stream_options, "max_tokens": max_tokens, "max_completion_tokens": max_completion_tokens}
    fields = {"model": "m", "messages": [], **extra, **{name: value for name, value in named.items() if value != 7}}
    body = (before + json.dumps(fields, ensure_ascii=ascii_only) + after).encode("utf-8", "replace")
    fields = json.loads(body)
    request = read_chat(body)
    ask = ask and not (request.stream_options and request.stream_options.include_usage)
    sent = json.loads(CHAT.changed(body, request, Changes(ask, most)))
    if ask:
        assert sent["stream_options"]["include_usage"] is True
        assert {**sent.pop("stream_options"), "include_usage": 0} == {**(stream_options or {}), "include_usage": 0}
        fields.pop("stream_options", None)
    if most is not None:
        given_bounds = [bound for bound in (max_tokens, max_completion_tokens) if bound is not None]
        told = [sent.pop(name, None) for name in ("max_tokens", "max_completion_tokens")]
        told = [bound for bound in told if bound is not None]
        assert sorted(told) == sorted(min(bound, most) for bound in given_bounds) if given_bounds else told == [most]
        for name in ("max_tokens", "max_completion_tokens"):
            fields.pop(name, None)
    assert sent == fields


def test_a_body_that_may_stay_is_not_even_copied() -> None:
    """No change means the client's own bytes."""
    body = b' {"model":"m",' + MESSAGES + b"} "
    assert CHAT.changed(body, read_chat(body), Changes()) is body
    assert CHAT.changed(body, read_chat(body), UNCHANGED) is body


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 5}, 9),
    ],
)
def test_the_clients_bound_is_its_largest(fields: dict[str, int], most: int | None) -> None:
    """Which of two a provider obeys is not known here."""
    assert CHAT.bound(read_chat(chat(**fields))).client_max == most


def test_a_completion_is_billed_for_its_best_of() -> None:
    """All of `best_of` are generated, whatever `n` is returned."""
    best_of = COMPLETIONS.bound(read_completion(b'{"model":"m","prompt":"a","n":2,"best_of":5}'))
    assert (best_of.choices, best_of.shown_choices) == (5, 2)
    assert COMPLETIONS.bound(read_completion(b'{"model":"m","prompt":"a","n":3}')).choices == 3
    assert CHAT.bound(read_chat(chat(n=4))).choices == 4
    assert CHAT.bound(read_chat(chat())).choices == 1


def test_a_completion_is_bounded_by_its_own_name() -> None:
    """max_completion_tokens is none of the legacy route's."""
    body = b'{"model":"m","prompt":"a"}'
    assert json.loads(COMPLETIONS.changed(body, read_completion(body), Changes(output_max=3)))["max_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m"}', "messages"),
        (b'{"messages":[]}', "model"),
        (b'{"model":"m","messages":[{"role":"user"},{"content":"x"}]}', "messages[1].role"),
        (b'{"model":"m","messages":[{"role":"user","content":[{"text":"x"}]}]}', "messages[0].content[0].type"),
    ],
)
def test_what_is_missing_is_named_by_its_path(body: bytes, param: str) -> None:
    """As OpenAI writes paths."""
    with pytest.raises(MissingParameter) as caught:
        read_chat(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"model":"m","messages":{}}', "messages"),
        (b'{"model":"m","messages":[{"role":"user","content":[5]}]}', "messages[0].content[0]"),
        (b"[]", None),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(body: bytes, param: str | None) -> None:
    """A body that is no object has no path."""
    with pytest.raises(InvalidType) as caught:
        read_chat(body)
    assert caught.value.param == param


@pytest.mark.parametrize("tail", [b"{", b" x", b"}", b",", b"\xff"])
def test_bad_syntax_goes_before_bad_types(tail: bytes) -> None:
    """A body that is no JSON is told so, although its beginning has a wrong type as well."""
    with pytest.raises(InvalidJson):
        read_chat(b'{"model":5}' + tail)


def test_any_depth_is_read_or_refused() -> None:
    """Just below the depth that cannot be read, looking once more for equal keys must not fail otherwise."""
    outcomes = set()
    for depth in range(1, 1200):
        try:
            read_chat(b'{"model":"m","messages":[],"x":%b}' % (b"[" * depth + b"]" * depth))
            outcomes.add("read")
        except InvalidJson:
            outcomes.add("refused")
    assert "read" in outcomes


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing else comes out of reading."""
    for reader in (read_chat, read_completion):
        try:
            reader(data)
        except (InvalidJson, InvalidType, MissingParameter):
            continue


def test_a_forgotten_prompt_changes_no_decision() -> None:
    """Once it is counted, what was read of a prompt may go: the changes and the bytes sent on are the same."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{}],"n":2,"max_tokens":9,"stream":true}'
    request = read_chat(body)

    def decided() -> tuple[Any, ...]:
        bound = CHAT.bound(request)
        changes = CHAT.changes(request, bound, 5)
        return CHAT.changed(body, request, changes), bound, changes

    before = decided()
    CHAT.forget_prompt(request)
    assert (request.messages, request.tools) == ([], None)
    assert decided() == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m","messages":[],"model":"n"}', "model"),
        (b'{"model":"m","messages":[{"role":"user","role":"system"}]}', "messages[0].role"),
    ],
)
def test_a_key_that_comes_twice_is_named_by_its_path(body: bytes, param: str) -> None:
    """We would judge one of the two, and the provider might obey the other."""
    with pytest.raises(InvalidJson, match="twice") as caught:
        read_chat(body)
    assert caught.value.param == param


def test_a_number_without_end_is_refused() -> None:
    """Some read it and some do not."""
    with pytest.raises(InvalidJson, match=f"more than {MOST_DIGITS} digits"):
        read_chat(b'{"model":"m","messages":[],"x":%b}' % (b"1" * (MOST_DIGITS + 1)))
