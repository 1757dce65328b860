"""Responses over a WebSocket: messages as events and back, what is decided on of a message, errors as messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints import response_create
from sentinel.endpoints.response_create import RESPONSE_CREATE
from sentinel.error import AppError, InvalidApiKey, InvalidType, UnsupportedParameter, UpstreamError
from sentinel.proxy.redaction import NO_SECRET
from sentinel.proxy.sse import EventBuffer, split_events

MESSAGE = {"type": "response.create", "model": "gpt-4o", "input": "hi"}


def read(**fields: Any) -> response_create.ResponseCreate:
    return RESPONSE_CREATE.read(json.dumps({**MESSAGE, **fields}).encode())


def test_a_message_is_a_request_for_a_stream() -> None:
    """Whatever it says itself."""
    request = read(stream=False, max_output_tokens=20)
    assert (request.model, request.stream, request.client_max, request.generates) == ("gpt-4o", True, 20, True)
    assert not read(generate=False).generates
    assert read(generate=None).generates


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"type": "response.steer"}, UnsupportedParameter, "type"),
        ({"type": None}, UnsupportedParameter, "type"),
        ({"type": 7}, InvalidType, "generate"),
        ({"generate": "no"}, InvalidType, "generate"),
        ({"response": {}}, UnsupportedParameter, "response"),
        ({"background": True}, UnsupportedParameter, "background"),
    ],
)
def test_what_cannot_be_judged_is_refused(fields: dict[str, Any], error: type[AppError], param: str) -> None:
    """The error names the field."""
    with pytest.raises(error) as raised:
        read(**fields)
    assert raised.value.param in (param, "type")


class TestEvents:
    @given(
        st.recursive(
            st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        )
    )
    def test_a_message_comes_back_as_it_was(self, value: Any) -> None:
        """Through a stream of events that is cut anywhere."""
        for indent in (None, 2):
            message = json.dumps(value, indent=indent, ensure_ascii=indent is None).encode(errors="surrogatepass")
            event = response_create.event_of(message)
            buffer = EventBuffer()
            cut = len(event) // 2
            events = split_events(buffer.feed(event[:cut]) + buffer.feed(event[cut:]))
            assert response_create.messages_of(events) == [message]

    def test_a_carriage_return_is_a_space(self) -> None:
        """It can only be between values."""
        event = response_create.event_of(b'{"a":\r\n1}')
        assert response_create.messages_of([event]) == [b'{"a": \n1}']

    def test_what_is_no_data_is_no_message(self) -> None:
        """A comment, an empty event."""
        assert response_create.messages_of([b": keep-alive\n", b"data: \n\n", b"event: x\ndata: {}\n\n"]) == [b"{}"]


class TestTypes:
    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            (b'{"type":"a"}', "a"),
            (b'{"type":7}', None),
            (b'{"type":"a","x":NaN}', "a"),
            (b"[]", None),
            (b"{", None),
        ],
    )
    def test_the_type_of_a_message(self, message: bytes, kind: str | None) -> None:
        """None where it cannot be read."""
        assert response_create.kind_of(message) == kind

    def test_a_last_message(self) -> None:
        """The end of a response, or an error."""
        assert response_create.is_last(b'{"type":"response.completed"}')
        assert response_create.is_last(b'{"type":"error"}')
        assert not response_create.is_last(b'{"type":"response.created"}')
        assert not response_create.is_last(b"{}")


class TestErrors:
    @pytest.mark.parametrize(
        ("message", "status"),
        [
            (b'{"type":"error","status":429}', 429),
            (b'{"type":"error","status_code":503}', 503),
            (b'{"type":"error","error":{}}', 400),
            (b'{"type":"error","status":200}', 400),
            (b'{"type":"error","status":"x"}', None),
            (b'{"type":"response.created","x":"error"}', None),
            (b"{}", None),
        ],
    )
    def test_the_status_of_a_message(self, message: bytes, status: int | None) -> None:
        """Of an error alone."""
        assert response_create.status_of(message) == status

    def test_a_refusal(self) -> None:
        """An HTTP answer as a message; what is one already stays as it is."""
        headers = [(b"retry-after", b"3"), (b"content-type", b"application/json")]
        told = json.loads(response_create.refusal(429, headers, b'{"error":{"code":"x"}}'))
        assert told == {"type": "error", "status": 429, "error": {"code": "x"}, "headers": {"retry-after": "3"}}
        theirs = b'{"type": "error", "status": 400}'
        assert response_create.refusal(400, headers, theirs) is theirs
        assert json.loads(response_create.refusal(400, [], b"<html>"))["error"]["message"]

    def test_an_error_of_ours(self) -> None:
        """As a message of its own, and as the last of a response."""
        told = json.loads(response_create.error_message(InvalidApiKey("No.")))
        assert (told["status"], told["error"]["code"]) == (401, "invalid_api_key")
        event = RESPONSE_CREATE.render_event(UpstreamError("Gone."), None, "req_1")
        (message,) = response_create.messages_of([event])
        assert json.loads(message)["status"] == 502
        assert json.loads(message)["sequence_number"] == 0


def test_what_a_response_creates() -> None:
    """Its items, where it is stored; else itself alone, for as long as its socket is open."""

    def created(**response: Any) -> tuple[str, ...]:
        return RESPONSE_CREATE.created(response_create.event_of(json.dumps({"response": response}).encode()))

    output = [{"id": "msg_1"}]
    assert created(id="resp_1", output=output) == ("resp_1", "msg_1")
    assert created(id="resp_1", output=output, store=False) == ("resp_1",)
    assert created(store=False) == ()
    assert RESPONSE_CREATE.created(b"data: []\n\n") == ()
    assert RESPONSE_CREATE.meter(read(), NO_SECRET).model == "gpt-4o"
