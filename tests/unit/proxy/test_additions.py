"""What only we added, and a provider refuses, is left out at a second try and from then on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.endpoint import Changes
from sentinel.proxy.additions import MOST_MODELS, Additions
from sentinel.tokens.request import ChatRequest

PLAIN = b'{"model":"m","stream":true,"messages":[]}'
BOUNDED = b'{"model":"m","stream":true,"messages":[],"max_tokens":9,"stream_options":{"include_usage":false}}'
OURS = Changes(ask_usage=True, output_max=5, output_field="max_completion_tokens", adds_usage=True, adds_max=True)
BOTH = b"extra fields not permitted: stream_options, max_completion_tokens"


def again(
    additions: Additions, body: bytes, status: int, answer: bytes, changes: Changes = OURS
) -> tuple[ChatRequest, Changes | None]:
    request = CHAT.read(body)
    adds_max = changes.output_max is not None and CHAT.bound(request).client_max is None
    adds_usage = changes.ask_usage and request.stream_options is None
    return request, additions.again(replace(changes, adds_usage=adds_usage, adds_max=adds_max), status, answer)


def test_a_field_that_is_refused_is_left_out() -> None:
    """Each alone, or both at once; a maximum is told by its older name."""
    for answer, expected in (
        (b"stream_options is not supported", b',"max_completion_tokens":5}'),
        (b"include_usage", b',"max_completion_tokens":5}'),
        (b"max_completion_tokens", b',"stream_options":{"include_usage":true},"max_tokens":5}'),
        (BOTH, b',"max_tokens":5}'),
    ):
        for status in (400, 422):
            request, fewer = again(Additions(), PLAIN, status, answer)
            assert fewer is not None
            assert CHAT.changed(PLAIN, request, fewer) == PLAIN[:-1] + expected


@pytest.mark.parametrize(
    "answer",
    [
        b"max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
        b"'max_tokens' or 'max_completion_tokens' is too large: 5. This model's maximum context length is 16 tokens",
        b"Requested token count exceeds the model's maximum context length of 16 tokens.",
    ],
)
def test_a_maximum_beyond_the_model_is_left_out_for_once(answer: bytes) -> None:
    """The client's own is not; and where there is little left, the provider is told the next time."""
    additions = Additions()
    for name in ("max_tokens", "max_completion_tokens"):
        ours = Changes(output_max=5, output_field=name, adds_max=True)
        request, fewer = again(additions, PLAIN, 400, answer, ours)
        assert fewer is not None
        assert CHAT.changed(PLAIN, request, fewer) == PLAIN
        assert again(additions, PLAIN, 400, answer, fewer)[1] is None
        assert again(additions, BOUNDED, 400, answer, ours)[1] is None
        additions.taken("m", fewer)
        assert additions.allowed("m", ours) == ours


def test_a_refusal_of_something_else_is_the_clients() -> None:
    """Also that of a field which the client sent itself, and one that was left out already."""
    for body, status, answer in (
        (PLAIN, 422, b"messages is empty"),
        (PLAIN, 429, BOTH),
        (PLAIN, 500, BOTH),
        (BOUNDED, 422, BOTH),
    ):
        assert again(Additions(), body, status, answer)[1] is None
    _, fewer = again(Additions(), PLAIN, 422, BOTH)
    assert fewer is not None
    assert again(Additions(), PLAIN, 422, BOTH, fewer)[1] is None


def test_it_is_remembered_for_the_model_once_it_has_helped() -> None:
    """Not for others; and what did not help is forgotten."""
    additions = Additions()
    _, fewer = again(additions, PLAIN, 422, BOTH)
    assert additions.allowed("m", OURS) == OURS
    assert fewer is not None
    additions.taken("m", fewer)
    assert additions.allowed("m", OURS) == fewer
    assert additions.allowed("other", OURS) == OURS
    # Nothing is added that is not wanted.
    assert not additions.allowed("m", Changes()).ask_usage
    assert additions.allowed("m", Changes()).output_max is None


def test_what_is_remembered_is_bounded() -> None:
    """Clients may invent models without end."""
    additions = Additions()
    _, fewer = again(additions, PLAIN, 422, BOTH)
    assert fewer is not None
    for n in range(MOST_MODELS + 1):
        additions.taken(f"m{n}", fewer)
    assert additions.allowed("m0", OURS) == OURS
    assert additions.allowed("m1", OURS) == fewer
