"""What an event or a whole answer says: in the shapes that we know, and in all others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.tokens.answer import read_answer, read_event
from sentinel.tokens.loose import Kind, Reading, Text
from sentinel.tokens.usage import PLAIN, Details, Usage

USAGE = {"prompt_tokens": 21, "completion_tokens": 17}


def read(event: Any) -> Reading:
    reading = read_event(json.dumps(event).encode())
    assert reading is not None
    return reading


def of_delta(**delta: Any) -> list[tuple[Kind, int, str]]:
    """Kind, tool and text of what a delta says."""
    return [(kind, tool, piece) for _, kind, tool, piece in read({"choices": [{"index": 0, "delta": delta}]}).texts]


def pieces(**delta: Any) -> list[str]:
    return [piece for _, _, piece in of_delta(**delta)]


NULLS = {"choices": [{"index": None, "delta": None, "text": None, "finish_reason": None}], "usage": None}


@pytest.mark.parametrize("event", [{}, {"choices": None, "usage": None}, {"choices": [], "x": 1}, NULLS])
def test_nulls_and_absences_are_taken(event: Any) -> None:
    """No null of a provider makes an event unreadable."""
    assert read(event) == Reading()


class TestKnownShapes:
    """What providers mostly send."""

    def test_every_kind_of_text(self) -> None:
        """Content, refusal, reasoning, tool calls and the legacy call."""
        call = {"index": 3, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
        custom = {"index": 4, "type": "custom", "custom": {"name": "g", "input": "x"}}
        legacy = {"name": "h", "arguments": "{}"}
        assert of_delta(
            role="assistant", content="a", refusal="b", reasoning_content="c", tool_calls=[call, custom]
        ) == [
            (Kind.CONTENT, 0, "a"),
            (Kind.REFUSAL, 0, "b"),
            (Kind.REASONING, 0, "c"),
            (Kind.NAME, 3, "f"),
            (Kind.ARGUMENTS, 3, '{"a'),
            (Kind.NAME, 4, "g"),
            (Kind.ARGUMENTS, 4, "x"),
        ]
        assert of_delta(function_call=legacy) == [(Kind.NAME, -1, "h"), (Kind.ARGUMENTS, -1, "{}")]

    def test_choices_have_their_index(self) -> None:
        """Or their place, where they have none."""
        choices = [{"index": 5, "delta": {"content": "a"}}, {"delta": {"content": "b"}, "finish_reason": "stop"}]
        reading = read({"choices": choices})
        assert reading.texts == [Text(5, Kind.CONTENT, 0, "a"), Text(1, Kind.CONTENT, 0, "b")]
        assert reading.finished == [(1, "stop")]

    def test_completions_have_a_text(self) -> None:
        """Beside nothing else."""
        assert read({"choices": [{"text": "a", "index": 0, "logprobs": {"tokens": ["a"]}}]}).texts == [
            Text(0, Kind.CONTENT, 0, "a")
        ]

    def test_choices_that_say_the_same(self) -> None:
        """Are generated each; a text beside a delta that says it is not."""
        assert len(read({"choices": [{"index": 0, "text": "a"}] * 2}).texts) == 2
        assert len(read({"choices": [{"index": 0, "text": "a", "delta": {"content": "a"}}]}).texts) == 1

    def test_usage(self) -> None:
        """Beside text, too."""
        reading = read({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE})
        assert (reading.usage, reading.finished) == (Usage(21, 17), [(0, "stop")])

    @pytest.mark.parametrize("odd", [{}, {"total_tokens": "38"}], ids=["usual", "loose"])
    def test_usage_by_the_names_of_the_responses_api(self, odd: dict[str, Any]) -> None:
        """Whichever way the event is read."""
        usage = {"input_tokens": 21, "output_tokens": 17, "output_tokens_details": {"reasoning_tokens": 8}, **odd}
        assert read({"choices": [], "usage": usage}).usage == Usage(21, 17, reasoning_tokens=8)

    @pytest.mark.parametrize("error", [{"message": "overloaded"}, "overloaded", 529])
    def test_an_error(self, error: Any) -> None:
        """Beside choices, or instead of them."""
        assert read({"error": error}).failed
        assert read({"choices": [], "error": error}).failed
        assert not read({"choices": [], "error": None}).failed

    @pytest.mark.parametrize("choice", [{"error": {"code": 502}}, {"finish_reason": "error"}])
    @pytest.mark.parametrize("odd", [{}, {"x": 1}])
    def test_an_error_of_a_choice(self, choice: dict[str, Any], odd: dict[str, Any]) -> None:
        """OpenRouter tells it there."""
        reading = read({"choices": [{"index": 0, "delta": {"content": ""}, **choice, **odd}]})
        assert reading.failed
        assert not reading.is_generated


class TestOddFields:
    """One field of an unexpected type costs only itself."""

    def test_arguments_as_an_object(self) -> None:
        """llama.cpp#20198: the model wrote it as JSON, and usage beside it is read."""
        call = {"function": {"name": "f", "arguments": {"city": "Zürich", "days": [1, 2]}}}
        reading = read({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}], "usage": USAGE})
        assert [text[1:] for text in reading.texts] == [
            (Kind.NAME, 0, "f"),
            (Kind.ARGUMENTS, 0, '{"city":"Zürich","days":[1,2]}'),
        ]
        assert reading.usage == Usage(21, 17)

    @pytest.mark.parametrize(
        "odd",
        [
            {"refusal": False},
            {"role": 7},
            {"reasoning_content": {}},
            {"tool_calls": {}},
            {"tool_calls": "none"[4:]},
            {"function_call": []},
            {"annotations": 7},
            {"audio": {"id": "a", "data": "UklGRg", "expires_at": 7}},
            {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]},
        ],
    )
    def test_beside_text(self, odd: dict[str, Any]) -> None:
        """The text is read; what is no text is not."""
        assert pieces(content="hello", **odd) == ["hello"]

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], ["a", "b"]),
            ({"type": "text", "text": "a"}, ["a"]),
            (["a", ["b"]], ["a", "b"]),
            (12.5, ["12.5"]),
            (True, []),
            ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "signature": "x"}], ["hm"]),
        ],
    )
    def test_content_of_any_shape(self, content: Any, found: list[str]) -> None:
        """Parts, thinking parts, nested lists, numbers."""
        assert pieces(content=content) == found

    @pytest.mark.parametrize(
        "choices", [{"delta": {"content": "a"}}, "a", [["a"]], [{"x": {"delta": {"content": "a"}}}], [{"delta": ["a"]}]]
    )
    def test_choices_of_any_shape(self, choices: Any) -> None:
        """A text within them is generated text."""
        assert [text.piece for text in read({"choices": choices}).texts] == ["a"]

    def test_usage_and_choices_do_not_spoil_each_other(self) -> None:
        """Usage that is none leaves the text, choices that are none leave usage."""
        assert read({"choices": [{"text": "a"}], "usage": "free"}).texts == [Text(0, Kind.CONTENT, 0, "a")]
        assert read({"choices": 7, "usage": USAGE}).usage == Usage(21, 17)


class TestOtherNames:
    """All generated text counts, whatever its field."""

    @pytest.mark.parametrize(
        "delta",
        [
            {"reasoning": "hm"},
            {"thinking": "hm"},
            {"reasoning_text": "hm"},
            {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "format": "x", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "x"}]},
            {"audio": {"id": "audio_1", "transcript": "hm"}},
            {"a_field_of_tomorrow": {"said": "hm"}},
        ],
    )
    def test_it_counts(self, delta: dict[str, Any]) -> None:
        """By any name that is not known for something else."""
        assert pieces(**delta) == ["hm"]
        assert pieces(content=None, **delta) == ["hm"]

    @pytest.mark.parametrize(
        "delta",
        [
            {"reasoning": "hm", "reasoning_content": "hm"},
            {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
            {"reasoning_content": "hm", "thinking_blocks": [{"thinking": "hm"}], "reasoning": "hm"},
            {"content": "hm", "audio": {"transcript": "hm"}},
        ],
    )
    def test_a_text_that_comes_twice_counts_once(self, delta: dict[str, Any]) -> None:
        """Providers repeat it under another name."""
        assert pieces(**delta) == ["hm"]

    def test_calls_that_come_twice(self) -> None:
        """As the call of today and the one of before."""
        call = {"name": "f", "arguments": "{}"}
        assert pieces(tool_calls=[{"function": call}], function_call=call) == ["f", "{}"]
        assert len(pieces(tool_calls=[{"function": call}], function_call={"name": "g"})) == 3

    def test_the_same_words_thought_and_said(self) -> None:
        """Are generated twice; so are those of two calls."""
        assert pieces(content="yes", reasoning="yes") == ["yes", "yes"]
        calls = [{"index": i, "function": {"arguments": "{}"}} for i in range(2)]
        assert pieces(tool_calls=calls) == ["{}", "{}"]

    def test_all_so_far_beside_what_is_new(self) -> None:
        """Perplexity sends both; alone a message is text."""
        both = {"delta": {"content": " b"}, "message": {"content": "a b"}, "x": 1}
        assert [text.piece for text in read({"choices": [both]}).texts] == [" b"]
        assert [text.piece for text in read({"choices": [{"message": {"content": "a b"}, "x": 1}]}).texts] == ["a b"]

    @pytest.mark.parametrize("odd", [{}, {"x": 1}])
    def test_an_answer_beside_an_empty_delta(self, odd: dict[str, Any]) -> None:
        """Perplexity's whole answers have one."""
        choice = {"delta": {"role": "assistant", "content": ""}, "message": {"content": "a b"}, **odd}
        reading = read_answer(json.dumps({"choices": [choice]}).encode())
        assert reading is not None
        assert [text.piece for text in reading.texts] == ["a b"]

    def test_a_text_without_choices(self) -> None:
        """Of another format than chat; only fields that are known for text."""
        event = {"type": "content_block_delta", "note": "x", "delta": {"type": "text_delta", "text": "hm"}}
        assert [text.piece for text in read(event).texts] == ["hm"]
        spoken = {"type": "response.output_text.delta", "item_id": "x", "delta": "hm"}
        assert [text.piece for text in read(spoken).texts] == ["hm"]
        assert read({"type": "ping", "at": "now", "input": {"a": "b"}}).texts == []


class TestOddJson:
    """As SDKs read it."""

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_are_none(self, number: str) -> None:
        """sglang#4097: logprobs of minus infinity."""
        answer = {"choices": [{"message": {"content": "a"}, "logprobs": {"p": None}}], "usage": {"prompt_tokens": 21}}
        body = json.dumps(answer).replace("null", number)
        reading = read_event(body.encode())
        assert reading == Reading([Text(0, Kind.CONTENT, 0, "a")], Usage(21))

    @pytest.mark.parametrize("body", [b'\xef\xbb\xbf{"choices":[{"text":"a"}]}', b'\n\n {"choices":[{"text":"a"}]} \n'])
    def test_a_bom_and_blank_lines(self, body: bytes) -> None:
        """Are no part of it."""
        assert read_event(body) == Reading([Text(0, Kind.CONTENT, 0, "a")])

    def test_bytes_that_are_no_text(self) -> None:
        """The rest may have been shown."""
        reading = read_event(b'{"choices":[{"text":"a\xffb\nc"}]}')
        assert reading is not None
        assert [text.piece for text in reading.texts] == ["a\ufffdb\nc"]

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"null", b"7", b'"text"', b"[1]", b"\xff", b'{"a":' * 100_000, b'{"choices":[' + b"[" * 100_000],
    )
    def test_what_cannot_be_read(self, body: bytes) -> None:
        """Is told from what says nothing."""
        assert read_event(body) is None

    def test_depth(self) -> None:
        """Nothing overflows."""
        for depth in (10, 400, 900, 2000):
            read_event(b'{"choices":[{"x":' + b"[" * depth + b'"a"' + b"]" * depth + b"}]}")


@pytest.mark.parametrize("usage", [USAGE, {**USAGE, "prompt_tokens": "21"}, {"total_tokens": 38, "prompt_tokens": 21}])
def test_a_whole_answer_whose_output_is_told_needs_no_texts(usage: Any) -> None:
    """They would only be counted for nothing; all else is read."""
    body = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage}
    reading = read_answer(json.dumps(body).encode())
    assert reading is not None
    assert (reading.usage.output_tokens, reading.finished) == (17, [(0, "stop")])


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 21}, {"completion_tokens": "17"}, {"completion_tokens": 0}]
)
def test_a_whole_answer_whose_output_is_not_told(usage: Any) -> None:
    """Has texts to be counted."""
    reading = read_answer(json.dumps({"choices": [{"text": "a"}], "usage": usage}).encode())
    assert reading is not None
    assert reading.texts == [Text(0, Kind.CONTENT, 0, "a")]


@pytest.mark.parametrize(
    "choice",
    [
        {"text": "a", "finish_reason": None},
        {"text": "a", "finish_reason": "error"},
        {"text": "a", "finish_reason": "stop", "usage": {"completion_tokens": 20}},
        {"text": "a", "finish_reason": "stop", "error": {"message": "no"}},
    ],
)
def test_a_choice_that_says_more_is_looked_into(choice: dict[str, Any]) -> None:
    """One that has not ended, or not well, or tells a usage of its own, beside one that is read at a glance."""
    body = {"choices": [{"text": "b", "finish_reason": "stop"}, choice], "usage": USAGE}
    reading = read_answer(json.dumps(body).encode())
    assert reading is not None
    assert reading.usage.output_tokens == (20 if "usage" in choice else 17)
    assert reading.finished == [(0, "stop")] + [(1, choice["finish_reason"])] * bool(choice["finish_reason"])
    assert reading.failed == ("error" in (*choice, choice["finish_reason"]))


def test_usage_in_an_event_tells_kinds_of_tokens() -> None:
    """Sound, images, and what it has cost; where there is nothing of them, details are the PLAIN ones."""
    told = (
        b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"cost":0.25,'
        b'"prompt_tokens_details":{"audio_tokens":3},"completion_tokens_details":{"image_tokens":4}}}'
    )
    reading = read_event(told)
    assert reading is not None
    assert reading.usage.details == Details(input_audio=3, output_image=4, told_micro_usd=250_000)
    plain = read_event(b'{"choices":[],"usage":{"prompt_tokens":9,"prompt_tokens_details":{"audio_tokens":0}}}')
    assert plain is not None
    assert plain.usage.details is PLAIN
