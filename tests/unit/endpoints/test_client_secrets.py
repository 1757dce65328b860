"""Client secrets: what is read of a request for one, and of the answer that has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.client_secrets import CLIENT_SECRETS, SESSIONS, TRANSCRIPTION_SESSIONS
from sentinel.endpoints.endpoint import NO_OUTPUT, ClientSecret
from sentinel.error import InvalidJson, InvalidType
from sentinel.tokens.counter import TokenCounter


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b"{}", ""),
        (b'{"model":"a"}', "a"),
        (b'{"session":{"model":"b"},"model":"a"}', "b"),
        (b'{"session":null}', ""),
    ],
)
def test_the_model_of_a_request(body: bytes, model: str) -> None:
    """Of its session, or its own; it may say nothing."""
    request = CLIENT_SECRETS.read(body)
    assert (request.model, request.stream) == (model, None)
    assert CLIENT_SECRETS.count(request, TokenCounter()) == 0
    assert CLIENT_SECRETS.bound(request) is NO_OUTPUT
    CLIENT_SECRETS.forget_prompt(request)


def test_what_cannot_be_read_is_refused() -> None:
    """As everywhere."""
    with pytest.raises(InvalidJson):
        CLIENT_SECRETS.read(b"")
    with pytest.raises(InvalidType):
        CLIENT_SECRETS.read(b'{"session":7}')


@pytest.mark.parametrize(
    ("answer", "secrets"),
    [
        ({"value": "ek_1", "expires_at": 5, "session": {}}, (ClientSecret("ek_1", 5),)),
        ({"id": "sess_1", "client_secret": {"value": "ek_1", "expires_at": 5}}, (ClientSecret("ek_1", 5),)),
        ({"value": "ek_1"}, ()),
        ({"value": 1, "expires_at": 5}, ()),
        ([], ()),
    ],
)
def test_the_secret_of_an_answer(answer: Any, secrets: tuple[ClientSecret, ...]) -> None:
    """On its own, or as its `client_secret`; only where it says how long it lasts."""
    for endpoint in (CLIENT_SECRETS, SESSIONS, TRANSCRIPTION_SESSIONS):
        assert endpoint.secrets(json.dumps(answer).encode()) == secrets


def test_no_other_format_has_secrets() -> None:
    """Whatever its answers look like."""
    assert CHAT.secrets(b'{"value":"ek_1","expires_at":5}') == ()


def test_an_answer_that_is_none() -> None:
    """It costs nothing."""
    assert CLIENT_SECRETS.read_answer(b"[]") is None
    made, failed = (
        CLIENT_SECRETS.read_answer(b'{"value":"ek_1"}'),
        CLIENT_SECRETS.read_answer(b'{"error":{"code":"x"}}'),
    )
    assert made is not None
    assert failed is not None
    assert (made.is_generated, failed.is_generated) == (True, False)
