"""Realtime: what is read of events, how much of a conversation has been said, what a response has delivered."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from openai.types.realtime import RealtimeResponse

from sentinel.endpoints import realtime
from sentinel.endpoints.realtime import MOST_CONTEXT_TOKENS, Conversation, ServerEvent, SpeechMeter
from sentinel.error import InsufficientQuota
from sentinel.limits.policy import Cost
from sentinel.tokens.usage import NOTHING, Usage

PCM: Any = {"audio": {"input": {"format": {"type": "audio/pcm"}}, "output": {"format": {"type": "audio/pcm"}}}}
HELLO = "Say hello to the world"


def said(conversation: Conversation, **event: Any) -> None:
    read = realtime.client_event(json.dumps(event).encode())
    conversation.note_said(read, conversation.item_tokens(read))


def lasts(conversation: Conversation, session: dict[str, Any]) -> None:
    conversation.note_session(conversation.read_session(session), is_update=False)


def given(conversation: Conversation, response: dict[str, Any]) -> int:
    return conversation.input_with(conversation.added_tokens(response))


def told(**event: Any) -> ServerEvent:
    return realtime.server_event(json.dumps(event).encode())


def sound(count: int) -> str:
    return base64.b64encode(bytes(count)).decode()


class TestEvents:
    def test_of_the_client(self) -> None:
        """One that cannot be read has no more than its type."""
        event = realtime.client_event(b'{"type":"response.create","event_id":"e","response":{"a":1}}')
        assert (event.type, event.event_id, realtime.object_of(event.response)) == ("response.create", "e", {"a": 1})
        assert realtime.client_event(b'{"type":"a","event_id":7}').type == "a"
        assert realtime.client_event(b'{"type":7}').type is None
        assert realtime.client_event(b"[]").type is None
        assert realtime.client_event(b"{").type is None

    def test_of_the_provider(self) -> None:
        """One field of an unexpected type costs only itself."""
        event = told(type="response.done", response_id=7, response={"id": "r", "usage": {"input_tokens": 3}})
        assert (event.type, event.response_id) == ("response.done", None)
        assert realtime.usage_of(realtime.object_of(event.response)).prompt_tokens == 3
        assert realtime.server_event(b"no").type is None
        assert realtime.object_of(told(type="a", response=[]).response) == {}
        assert realtime.id_of({"id": "r"}) == "r"
        assert realtime.id_of({"id": 7}) == ""

    @examples(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(("type", "delta", "response", "session", "usage", "audio", "item", "event_id")),
                    inner,
                )
            ),
        )
    )
    def test_nothing_makes_reading_fail(self, value: Any) -> None:
        """Of whatever shape it is."""
        message = json.dumps(value).encode()
        conversation = Conversation("gpt-realtime")
        event = realtime.server_event(message)
        lasts(conversation, realtime.object_of(event.session))
        read = realtime.client_event(message)
        conversation.note_said(read, conversation.item_tokens(read))
        meter = SpeechMeter("gpt-realtime", conversation.out_bytes_per_token)
        meter.feed(event)
        assert meter.count() <= meter.upper_bound
        assert given(conversation, realtime.object_of(event.response)) >= 0
        realtime.bound_of(realtime.object_of(event.response), None)
        realtime.transcription_usage(event, "whisper-1", 0)

    def test_errors_and_orders_of_ours(self) -> None:
        """In the shape of the API."""
        error = json.loads(realtime.error_event(InsufficientQuota("No."), "e1", "event_1"))
        assert (error["type"], error["event_id"]) == ("error", "event_1")
        assert (error["error"]["code"], error["error"]["event_id"]) == ("insufficient_quota", "e1")
        assert json.loads(realtime.cancel_event("r1")) == {"type": "response.cancel", "response_id": "r1"}

    def test_an_end_at_a_limit(self) -> None:
        """As the response was told, with what was billed."""
        begun = {"id": "r1", "object": "realtime.response", "status": "in_progress", "metadata": {"a": "b"}}
        event = json.loads(realtime.incomplete_event(begun, Cost(1, 30, 12), "event_1"))
        assert (event["type"], event["event_id"]) == ("response.done", "event_1")
        response = RealtimeResponse.model_validate(event["response"])
        assert (response.id, response.status, response.metadata) == ("r1", "incomplete", {"a": "b"})
        assert response.status_details is not None
        assert response.status_details.reason == "max_output_tokens"
        assert realtime.usage_of(event["response"]) == Usage(30, 12, 42)


class TestUsage:
    def test_of_a_response(self) -> None:
        """Cached tokens are part of the input."""
        usage = {
            "input_tokens": 10,
            "output_tokens": 4,
            "total_tokens": 14,
            "input_token_details": {"cached_tokens": 8},
        }
        assert realtime.usage_of({"usage": usage}) == Usage(10, 4, 14, cached_tokens=8)
        assert realtime.usage_of({"usage": None}) == NOTHING

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ({"type": "tokens", "input_tokens": 7, "output_tokens": 2, "total_tokens": 9}, (7, 2)),
            ({"type": "duration", "seconds": 1.21}, (13, 0)),
            ({"type": "duration", "seconds": True}, (50, 5)),
            ({"type": "duration", "seconds": -1}, (50, 5)),
            (None, (50, 5)),
        ],
    )
    def test_of_a_transcription(self, usage: Any, expected: tuple[int, int]) -> None:
        """As tokens, as seconds; else of the sound that was heard, and the text."""
        found = realtime.transcription_usage(told(usage=usage, transcript=HELLO), "whisper-1", 50)
        assert (found.prompt_tokens, found.output_tokens) == expected


class TestBound:
    @pytest.mark.parametrize(
        ("response", "of_session", "expected"),
        [
            ({}, None, None),
            ({}, 9, 9),
            ({"max_output_tokens": 5}, 9, 5),
            ({"max_output_tokens": "inf"}, 9, None),
            ({"max_response_output_tokens": 6}, None, 6),
            ({"max_output_tokens": True}, 9, None),
        ],
    )
    def test_the_response_says_it_or_the_session(
        self, response: dict[str, Any], of_session: int | None, expected: int | None
    ) -> None:
        """`inf` is no maximum."""
        bound = realtime.bound_of(response, of_session)
        assert (bound.client_max, bound.grows_in_sight) == (expected, True)

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            ('{"type": "response.create"}', {"max_output_tokens": 50}),
            ('{"type": "response.create", "response": null}', {"max_output_tokens": 50}),
            ('{"response": {"max_output_tokens": null}}', {"max_output_tokens": 50}),
            ('{"response": {"max_output_tokens": "inf"}}', {"max_output_tokens": 50}),
            ('{"response": {"max_output_tokens": 90}}', {"max_output_tokens": 50}),
            ('{"response": {"max_response_output_tokens": 90}}', {"max_response_output_tokens": 50}),
            (
                '{"response": {"max_output_tokens": 90, "max_response_output_tokens": 9}}',
                {"max_output_tokens": 50, "max_response_output_tokens": 9},
            ),
        ],
    )
    def test_less_is_told_to_the_provider(self, asked: str, told: dict[str, int]) -> None:
        """By the name that the client has for it."""
        assert json.loads(realtime.lowered(asked.encode(), 50))["response"] == told

    def test_what_is_not_the_maximum_keeps_its_bytes(self) -> None:
        """However it is written; what cannot be read stays whole, and no API takes more than its most."""
        asked = b'{ "type":"response.create","x": [1.0,  {}], "response": {"metadata":{"a" : "\\u00e9"} } }'
        changed = realtime.lowered(asked, 50)
        assert b'"x":[1.0,  {}]' in changed
        assert b'"metadata":{"a" : "\\u00e9"}' in changed
        for odd in (b'{"response":"all"}', b'{"response":[]}', b"[]", b'{"response":{"a":NaN}}'):
            assert realtime.lowered(odd, 50) == odd
        assert json.loads(realtime.lowered(b"{}", 9000))["response"] == {"max_output_tokens": 4096}
        own = b'{"response":{"max_output_tokens":9500}}'
        assert json.loads(realtime.lowered(own, 9000))["response"] == {"max_output_tokens": 9000}


class TestAConversation:
    def test_what_the_client_has_asked_for_holds_at_once(self) -> None:
        """Its next response is not longer, though the session has not been told yet."""
        conversation = Conversation("gpt-realtime")
        conversation.note_asked({"max_output_tokens": 20})
        conversation.note_asked({"instructions": HELLO})
        assert conversation.client_max == 20
        conversation.note_asked({"max_response_output_tokens": "inf"})
        assert conversation.client_max is None

    def test_what_the_provider_tells_of_before_does_not_undo_it(self) -> None:
        """Its beginning may be told after the client has asked for something else, and so may earlier changes."""
        conversation = Conversation("gpt-realtime")
        told = conversation.read_session({"max_output_tokens": "inf"})
        conversation.note_asked({"max_output_tokens": 20})
        conversation.note_session(told, is_update=False)
        conversation.note_asked({"max_output_tokens": 30})
        conversation.note_session(conversation.read_session({"max_output_tokens": 20}), is_update=True)
        assert conversation.client_max == 30
        conversation.note_session(conversation.read_session({"max_output_tokens": 25}), is_update=True)
        assert conversation.client_max == 25
        conversation.note_session(told, is_update=True)
        assert conversation.client_max is None

    def test_text_counts(self) -> None:
        """Of items, instructions and tools; a picture and what is long by a bound."""
        conversation = Conversation("gpt-realtime")
        said(conversation, type="conversation.item.create", item={"content": [{"type": "input_text", "text": HELLO}]})
        before = given(conversation, {})
        assert 5 <= before <= 20
        assert given(conversation, {"instructions": HELLO}) > before
        said(
            conversation,
            item={"content": [{"type": "input_image", "image_url": "data:image/png;base64," + "A" * 9000}]},
        )
        assert before + 2000 <= given(conversation, {}) <= before + 2020
        said(conversation, item={"content": [{"text": "x" * 40_000, "odd": 1}]})
        assert given(conversation, {}) >= before + 42_000

    def test_a_session_counts_once(self) -> None:
        """However often it is told."""
        conversation = Conversation("gpt-realtime")
        for _ in range(3):
            lasts(conversation, {"model": "m", "instructions": HELLO, "max_output_tokens": 7, "tools": []})
        assert given(conversation, {}) < 20
        assert (conversation.model, conversation.client_max) == ("m", 7)
        lasts(conversation, {"instructions": ""})
        assert given(conversation, {}) < 5

    @pytest.mark.parametrize(
        ("session", "tokens"),
        [
            (PCM, 10),
            ({"input_audio_format": "pcm16"}, 10),
            ({"input_audio_format": "g711_ulaw"}, 60),
            ({"audio": {"input": {"format": {"type": "audio/pcmu"}}}}, 60),
            ({}, 60),
        ],
    )
    def test_sound_counts_by_its_format(self, session: dict[str, Any], tokens: int) -> None:
        """A second of PCM is ten tokens; what is not known counts as if it were the densest."""
        conversation = Conversation("gpt-realtime")
        lasts(conversation, session)
        said(conversation, type="input_audio_buffer.append", audio=sound(48_000))
        base = conversation.context_tokens
        assert given(conversation, {}) - base == pytest.approx(tokens, abs=4)
        conversation.note_committed()
        assert conversation.heard_tokens == pytest.approx(tokens, abs=1)
        assert conversation.context_tokens == base + conversation.heard_tokens
        said(conversation, item={"content": [{"type": "input_audio", "audio": sound(48_000)}]})
        assert conversation.context_tokens >= base + 2 * conversation.heard_tokens - 1

    def test_usage_says_how_much_it_was(self) -> None:
        """What a response was given, and has said, is what the next one is given; no context is endless."""
        conversation = Conversation("gpt-realtime")
        said(conversation, item={"content": [{"text": "x" * 400_000}]})
        assert given(conversation, {}) == MOST_CONTEXT_TOKENS
        conversation.note_usage(NOTHING)
        assert conversation.context_tokens == MOST_CONTEXT_TOKENS
        conversation.note_usage(Usage(100, 20))
        assert conversation.context_tokens == 120

    def test_who_transcribes(self) -> None:
        """As either API has it."""
        conversation = Conversation("gpt-realtime")
        lasts(conversation, {"input_audio_transcription": {"model": "whisper-1"}})
        assert conversation.transcriber == "whisper-1"
        lasts(conversation, {"audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}})
        assert conversation.transcriber == "gpt-transcribe"


class TestWhatWasDelivered:
    def test_text_and_sound(self) -> None:
        """A transcript beside its sound; 50 ms are a token."""
        meter = SpeechMeter("gpt-realtime", 2_400)
        for piece in (" The", " river", " bends"):
            meter.feed(told(type="response.output_audio_transcript.delta", response_id="r", delta=piece))
            meter.feed(told(type="response.output_audio.delta", response_id="r", delta=sound(4_800)))
        assert meter.count() == 3 + 6
        for size in (1, 2_398, 1):
            meter.feed(told(type="response.output_audio.delta", response_id="r", delta=sound(size)))
        assert meter.count() == 3 + 7
        meter.feed(told(type="response.function_call_arguments.delta", response_id="r", delta="{}"))
        meter.feed(told(type="response.output_item.done", response_id="r", delta="none"))
        meter.feed(told(type="response.output_text.delta", response_id="r", delta=7))
        assert meter.count() == meter.upper_bound == 3 + 7 + 1

    def test_a_piece(self) -> None:
        """Of a response, and not of a transcription."""
        assert realtime.is_piece(told(type="response.output_text.delta", response_id="r", delta=""))
        assert not realtime.is_piece(told(type="conversation.item.input_audio_transcription.delta", delta="x"))
        assert not realtime.is_piece(told(type="response.output_item.done", response_id="r"))


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (
            b'{"type":"session.update", "session":{ "model" : "mine","instructions":"mine"}}',
            b'{"type":"session.update", "session":{ "model" : "theirs","instructions":"mine"}}',
        ),
        (b'{"session":{"model":"other"}}', b'{"session":{"model":"other"}}'),
        (b'{"session":{"model":7}}', b'{"session":{"model":7}}'),
        (b'{"session":{"audio":{"model":"mine"}}}', b'{"session":{"audio":{"model":"mine"}}}'),
        (b'{"session":[]}', b'{"session":[]}'),
        (b"no JSON", b"no JSON"),
        (b"\xff", b"\xff"),
    ],
)
def test_a_session_that_names_its_model(event: bytes, changed: bytes) -> None:
    """By the provider's name; nothing else changes, nor what cannot be read."""
    assert realtime.renamed(event, "mine", "theirs") == changed
