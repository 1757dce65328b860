"""What providers really send (shared reports name the sources): read, charged and ended as it should be.

Each test says what arrives, what must leave, and what is charged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.completion import Completion

from sentinel.cache.redis import Store
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.error import UpstreamError
from sentinel.tokens.bpe import count_for
from tests.exchange.driver import DONE, INPUT_TOKENS, Client, Stage, event, usage

count = count_for("gpt-4o-mini")
BROKEN = UpstreamError("x")
WORDS = [event(f" {word}") for word in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]]


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


async def run(stage: Stage, client: Client, *pieces: bytes | Exception, **provider: Any) -> tuple[int, int] | None:
    """Input and output tokens that an exchange was charged with, None = nothing at all."""
    stage.provider.pieces = list(pieces)
    for name, value in provider.items():
        setattr(stage.provider, name, value)
    await stage.exchange(client).run()
    records = await stage.settled()
    return next(((i, o) for _, i, o in records.values()), None)


def of_delta(delta: dict[str, Any], **fields: Any) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}], **fields}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def events(got: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in got.split(b"\n") if line.startswith(b"data: {")]


class TestText:
    """Text counts whatever its field and its neighbours."""

    async def test_usage_beside_a_field_that_does_not_fit(self, stage: Stage) -> None:
        """F1: arguments as an object."""
        call = {"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}
        pieces = [of_delta({"tool_calls": [call]}, usage=usage(21, 17)), DONE]
        client = Client(stream=True)
        assert await run(stage, client, *pieces) == (21, 17)
        assert client.got == b"".join(pieces)

    @pytest.mark.parametrize(
        "beside", [{"refusal": False}, {"reasoning_content": {"a": []}}, {"role": 7}, {"tool_calls": {}}]
    )
    async def test_a_limit_holds_beside_a_field_that_does_not_fit(self, stage: Stage, beside: dict[str, Any]) -> None:
        """F1: forty words, six tokens."""
        await stage.limit(6)
        client = Client(stream=True)
        pieces = [of_delta({"content": " word", **beside}) for _ in range(40)]
        charged = await run(stage, client, *pieces, DONE)
        assert (charged, client.text) == ((INPUT_TOKENS, 6), " word" * 6)

    @pytest.mark.parametrize(
        "delta",
        [
            {"reasoning": " word"},
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": " word"}]}]},
            {"audio": {"transcript": " word"}},
            {"reasoning": " word", "reasoning_content": " word"},
            {"a_field_of_tomorrow": " word"},
        ],
    )
    async def test_text_in_other_fields(self, stage: Stage, delta: dict[str, Any]) -> None:
        """F2: it is charged, and ended at a limit."""
        pieces = [of_delta(delta) for _ in range(40)]
        assert await run(stage, Client(stream=True), *pieces, DONE) == (INPUT_TOKENS, 40)
        await stage.limit(46)
        client = Client(stream=True)
        await run(stage, client, *pieces, DONE)
        assert len(events(client.got)) == 6 + 1
        assert stage.ended[-1].outcome == "limit"

    async def test_a_client_that_leaves_pays_for_reasoning(self, stage: Stage) -> None:
        """F2: what it got before the break."""
        charged = await run(stage, Client(stream=True), *[of_delta({"reasoning": " word"})] * 5, BROKEN)
        assert charged == (INPUT_TOKENS, 5)


class TestLargeEvents:
    """They are read like others."""

    @pytest.mark.parametrize("size", [4_096, 40_000])
    async def test_a_large_text(self, stage: Stage, size: int) -> None:
        """F3: some 350 KB in one event are counted, and pass unchanged."""
        text = " word" * size
        client = Client(stream=True)
        pieces = [event(text), WORDS[0], DONE]
        assert await run(stage, client, *pieces) == (INPUT_TOKENS, size + 1)
        assert client.got == b"".join(pieces)

    async def test_a_limit_holds(self, stage: Stage) -> None:
        """F3: what does not fit does not leave; what came before is charged."""
        await stage.limit(6)
        client = Client(stream=True)
        assert await run(stage, client, WORDS[0], event(" word" * 70_000), DONE) == (INPUT_TOKENS, 1)
        assert client.text == " one"
        assert stage.ended[0].outcome == "limit"

    @pytest.mark.parametrize("words", [3, 70_000])
    async def test_what_does_not_fit_has_not_ended_its_choice(self, stage: Stage, words: int) -> None:
        """Its finish reason does not leave, so the end at the limit has one."""
        await stage.limit(2)
        client = Client(stream=True)
        last = {"index": 0, "delta": {"content": " word" * words}, "finish_reason": "stop"}
        pieces = [WORDS[0], b"data: " + json.dumps({"choices": [last]}).encode() + b"\n\n", DONE]
        assert await run(stage, client, *pieces) == (INPUT_TOKENS, 1)
        reasons = [choice["finish_reason"] for each in events(client.got) for choice in each["choices"]]
        assert reasons[-1] == "length"
        assert "stop" not in reasons

    async def test_a_limit_that_suffices(self, stage: Stage) -> None:
        """The reservation grows by what the event needs."""
        await stage.limit(100_000)
        client = Client(stream=True)
        pieces = [event(" word" * 70_000), WORDS[0], DONE]
        assert await run(stage, client, *pieces) == (INPUT_TOKENS, 70_001)
        assert client.got == b"".join(pieces)

    @pytest.mark.parametrize("limited", [True, False])
    async def test_a_picture_with_usage(self, stage: Stage, limited: bool) -> None:
        """F3: usage in the same event counts; the picture is no text."""
        if limited:
            await stage.limit(2000)
        picture = {"images": [{"image_url": {"url": "data:image/png;base64," + "iVBO" * 75_000}}]}
        client = Client(stream=True)
        pieces = [of_delta(picture, usage=usage(21, 1290)), DONE]
        assert await run(stage, client, *pieces) == (21, 1290)
        assert client.got == b"".join(pieces)

    async def test_what_is_too_long_to_be_read(self, stage: Stage) -> None:
        """Is charged by its bytes, so no limit is passed by much."""
        await stage.limit(1_000_000)
        client = Client(stream=True)
        huge = event("x" * 9_000_000)
        charged = await run(stage, client, WORDS[0], huge, DONE)
        assert charged == (INPUT_TOKENS, 1)
        assert client.text == " one"


class TestEndAtLimit:
    """The last chunk has the shape of the route and the envelope of the events before it."""

    FIRST = b'data: {"id":"","object":"","model":"","created":0,"choices":[],"prompt_filter_results":[{"index":0}]}\n\n'

    @pytest.mark.parametrize("first", [FIRST, b": a comment\n\n", b"id: 1\n\n", b""])
    async def test_of_a_chat(self, stage: Stage, first: bytes) -> None:
        """F4: whatever comes first."""
        await stage.limit(2)
        client = Client(stream=True)
        words = [event(f" {word}", created=5, model="m", system_fingerprint="f") for word in ("one", "two", "three")]
        assert await run(stage, client, first, *words) == (INPUT_TOKENS, 2)
        last = ChatCompletionChunk.model_validate(events(client.got)[-1], strict=True)
        assert (last.id, last.created, last.model, last.system_fingerprint) == ("c", 5, "m", "f")
        assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, "length")
        assert client.got.endswith(DONE)
        assert stage.ended[0].finish_reason == "length"

    @pytest.mark.parametrize("first", [FIRST, b": a comment\n\n", b""])
    @pytest.mark.parametrize("name", ["text_completion", "chat.completion.chunk", ""])
    async def test_of_a_completion(self, stage: Stage, first: bytes, name: str) -> None:
        """F4: the route decides, not what the provider calls it."""
        await stage.limit(2)
        client = Client(stream=True, prompt="Say hello", max_tokens=2)
        words = [
            b"data: "
            + json.dumps(
                {"id": "c", "object": name, "created": 5, "model": "m", "choices": [{"index": 0, "text": f" {w}"}]}
            ).encode()
            + b"\n\n"
            for w in ("one", "two", "three")
        ]
        stage.provider.pieces = [first, *words]
        await stage.exchange(client, COMPLETIONS).run()
        assert [o for _, _, o in (await stage.settled()).values()] == [2]
        last = Completion.model_validate(events(client.got)[-1])
        assert (last.id, last.created, last.model) == ("c", 5, "m")
        assert (last.choices[0].text, last.choices[0].finish_reason) == ("", "length")

    async def test_before_anything_was_delivered(self, stage: Stage) -> None:
        """The envelope is that of the event that did not fit."""
        await stage.limit(1)
        client = Client(stream=True)
        await run(stage, client, event(" two tokens", created=5, model="m"), DONE)
        (last,) = events(client.got)
        assert (last["id"], last["created"], last["choices"][0]["finish_reason"]) == ("c", 5, "length")


class TestUsage:
    """Merged field by field over a stream."""

    @pytest.mark.parametrize(
        ("pieces", "charged"),
        [
            ([usage(21, 0), usage(0, 17)], (21, 17)),
            ([usage(21, 17), {}], (21, 17)),
            ([usage(21, 17), usage(0, 0)], (21, 17)),
            ([usage(21, 17), {"prompt_tokens": None}], (21, 17)),
            ([usage(21, 5), usage(21, 17)], (21, 17)),
            ([{"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}], (32, 103)),
            ([usage(21, 0)], (21, 2)),
            ([{"prompt_tokens": 21, "completion_tokens": "17"}], (21, 2)),
            ([{"prompt_tokens": -5, "completion_tokens": 17}], (INPUT_TOKENS, 17)),
        ],
    )
    async def test_pieces(self, stage: Stage, pieces: list[dict[str, Any]], charged: tuple[int, int]) -> None:
        """F5, F6: larger numbers win, zeros and absences tell nothing, the total tells of reasoning."""
        told = [event(usage=piece) for piece in pieces]
        assert await run(stage, Client(stream=True), *WORDS[:2], *told, DONE) == charged

    async def test_early_usage(self, stage: Stage) -> None:
        """F5: of the input alone, before the text: the output is counted."""
        assert await run(stage, Client(stream=True), event(usage=usage(21, 0)), *WORDS, DONE) == (21, 10)
        assert stage.ended[0].tokens_from == "count"

    async def test_usage_that_lags(self, stage: Stage) -> None:
        """Usage that text comes after does not tell of it."""
        pieces = [event(" one", usage=usage(21, 1)), *WORDS[1:], DONE]
        assert await run(stage, Client(stream=True), *pieces) == (21, 10)

    async def test_usage_all_along(self, stage: Stage) -> None:
        """The last one counts, although our own count is another."""
        pieces = [event(" word", usage=usage(21, 3 * n)) for n in range(1, 5)]
        assert await run(stage, Client(stream=True), *pieces, DONE) == (21, 12)
        pieces = [event(" word word", usage=usage(21, n)) for n in range(1, 5)]
        assert list((await _second(stage, *pieces, DONE)).values())[-1] == (1, 21, 4)

    async def test_the_record_says_more(self, stage: Stage) -> None:
        """Cached and reasoning tokens, and why it ended."""
        told = {
            **usage(21, 17),
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 6},
        }
        end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        await run(stage, Client(stream=True), WORDS[0], end, event(usage=told), DONE)
        context = stage.ended[0]
        assert (context.cached_tokens, context.reasoning_tokens, context.finish_reason) == (8, 6, "stop")
        assert context.tokens_from == "provider"


async def _second(stage: Stage, *pieces: bytes) -> dict[str, tuple[int, int, int]]:
    stage.provider.pieces = list(pieces)
    await stage.exchange(Client(stream=True)).run()
    return await stage.settled()


class TestErrors:
    """An error costs no tokens, unless something was generated before."""

    KEEP_ALIVE = b": keep-alive\n\n"
    ERROR = b'data: {"error":{"message":"overloaded"}}\n\n'
    ROLE = of_delta({"role": "assistant", "content": ""})

    @pytest.mark.parametrize(
        "pieces",
        [
            [KEEP_ALIVE] * 3 + [BROKEN],
            [KEEP_ALIVE, ROLE, BROKEN],
            [event(usage=usage(21, 0)), BROKEN],
            [ERROR],
            [ERROR, DONE],
            [ROLE, ERROR, DONE],
            [KEEP_ALIVE, ERROR, BROKEN],
            [b'event: error\ndata: {"message":"overloaded"}\n\n'],
            [b'data: {"object":"error","message":"overloaded"}\n\n', DONE],
            [b'data: {"choi'],
            # OpenRouter, beside a choice and within it.
            [b'data: {"error":{"code":502},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}\n\n', DONE],
            [b'data: {"choices":[{"index":0,"delta":{},"error":{"code":502},"finish_reason":"stop"}]}\n\n', DONE],
            [b'data: {"choices":[{"index":0,"text":"","finish_reason":"error"}]}\n\n', DONE],
            # llama.cpp, DashScope, and one that says it in plain words.
            [b'error: {"code":500,"message":"x"}\n\n'],
            [b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"x","message":"y"}\n\n'],
            [b"event: error\r\ndata: overloaded\r\n\r\n"],
        ],
    )
    async def test_before_anything_was_generated(self, stage: Stage, pieces: list[bytes | Exception]) -> None:
        """F7: free; and all that came reaches the client, without a forged end."""
        client = Client(stream=True)
        assert await run(stage, client, *pieces) is None
        whole = b"".join(piece for piece in pieces if isinstance(piece, bytes) and piece != b'data: {"choi')
        assert client.got.startswith(whole.removesuffix(event(usage=usage(21, 0))))
        assert b"error" in client.got
        assert (DONE in client.got) == (DONE in pieces)
        assert stage.ended[0].outcome == "broken"

    @pytest.mark.parametrize("pieces", [[], [KEEP_ALIVE] * 3, [ROLE]])
    async def test_an_end_before_anything(self, stage: Stage, pieces: list[bytes]) -> None:
        """A stream that says nothing and has no [DONE] is free, although it ends in good order."""
        client = Client(stream=True)
        assert await run(stage, client, *pieces) is None
        assert client.got == b"".join(pieces)
        assert stage.ended[0].outcome == "broken"

    async def test_an_end_that_is_told(self, stage: Stage) -> None:
        """An empty answer is one."""
        assert await run(stage, Client(stream=True), self.ROLE, DONE) == (INPUT_TOKENS, 0)
        assert stage.ended[0].outcome == "ok"

    @pytest.mark.parametrize(
        "body",
        [
            {"choices": [{"message": {"content": ""}, "error": {"code": 502}, "finish_reason": "error"}]},
            {"choices": [{"text": "", "finish_reason": "error"}]},
            {"error": {"code": 502}, "choices": [{"message": {"content": ""}, "finish_reason": "error"}]},
            # MiniMax.
            {"choices": None, "usage": None, "base_resp": {"status_code": 1008, "status_msg": "no balance"}},
        ],
    )
    async def test_a_whole_answer_that_says_nothing(self, stage: Stage, body: dict[str, Any]) -> None:
        """Whatever its choices say of the error."""
        client = Client()
        assert await run(stage, client, body=json.dumps(body).encode()) is None
        assert client.status == 200
        assert stage.ended[0].outcome == "upstream_error"

    async def test_after_some_text(self, stage: Stage) -> None:
        """What was delivered is billed; the error passes as it is."""
        client = Client(stream=True)
        assert await run(stage, client, *WORDS[:2], self.ERROR) == (INPUT_TOKENS, 2)
        assert client.got == b"".join(WORDS[:2]) + self.ERROR
        assert stage.ended[0].outcome == "broken"

    async def test_in_the_middle_of_an_event(self, stage: Stage) -> None:
        """The part that nobody can read is replaced by an error event; no [DONE] is forged."""
        client = Client(stream=True)
        assert await run(stage, client, WORDS[0], WORDS[1][:-20]) == (INPUT_TOKENS, 1)
        *words, last = events(client.got)
        assert len(words) == 1
        assert last["error"]["code"] == "upstream_error"
        assert DONE not in client.got

    @pytest.mark.parametrize("end", [b"", b"\n"])
    async def test_a_last_event_without_its_blank_line(self, stage: Stage, end: bytes) -> None:
        """Is whole if its data is."""
        client = Client(stream=True)
        last = event(usage=usage(21, 17)).rstrip() + end
        assert await run(stage, client, *WORDS[:2], last) == (21, 17)
        assert client.got == b"".join(WORDS[:2])

    @pytest.mark.parametrize("error", [{"message": "overloaded"}, "overloaded"])
    async def test_a_whole_answer(self, stage: Stage, error: Any) -> None:
        """F7: with an error and no choices it is passed on, and free."""
        body = json.dumps({"error": error, "usage": usage(21, 17)}).encode()
        client = Client()
        assert await run(stage, client, body=body) is None
        assert (client.status, client.got) == (200, body)
        assert stage.ended[0].outcome == "upstream_error"

    async def test_a_whole_answer_that_is_no_object(self, stage: Stage) -> None:
        """Is a broken one, also for who asked for a stream."""
        for streamed in (False, True):
            client = Client(stream=streamed)
            body = b' [{"error":{"code":502}}]'
            charged = await run(
                stage, client, body=body, pieces=[body], header_lines=b"content-type: application/json\r\n"
            )
            assert charged is None
            assert (client.status, stage.ended[-1].outcome) == (502, "upstream_error")

    async def test_the_end_without_done(self, stage: Stage) -> None:
        """After usage it is complete, and none is added."""
        client = Client(stream=True)
        assert await run(stage, client, *WORDS[:2], event(usage=usage(21, 17))) == (21, 17)
        assert client.got == b"".join(WORDS[:2])

    @pytest.mark.parametrize("rubbish", [DONE, b"garbage", b'data: {"a":1}\n\n'])
    async def test_after_done(self, stage: Stage, rubbish: bytes) -> None:
        """Nothing follows, and the end comes last."""
        client = Client(stream=True)
        assert await run(stage, client, WORDS[0], DONE + rubbish) == (INPUT_TOKENS, 1)
        assert client.got == WORDS[0] + DONE


class TestWithheld:
    """Nothing but the usage that only we asked for."""

    @pytest.mark.parametrize(
        "more", [{"error": {"message": "x"}}, {"citations": ["a"]}, {"moderation": {"flagged": True}}]
    )
    async def test_what_says_more_passes(self, stage: Stage, more: dict[str, Any]) -> None:
        """F8: beside an error, or citations."""
        client = Client(stream=True)
        last = event(usage=usage(21, 17), **more)
        assert await run(stage, client, *WORDS[:2], last, DONE) == (21, 17)
        assert client.got == b"".join(WORDS[:2]) + last + DONE

    @pytest.mark.parametrize("more", [{}, {"error": None}, {"citations": []}, {"service_tier": "default"}])
    async def test_what_says_nothing_more_does_not(self, stage: Stage, more: dict[str, Any]) -> None:
        """Empty values say nothing."""
        client = Client(stream=True)
        assert await run(stage, client, WORDS[0], event(usage=usage(21, 17), **more), DONE) == (21, 17)
        assert client.got == WORDS[0] + DONE


class TestSecondTry:
    """A field that only we added, and the provider refuses."""

    async def test_it_is_left_out(self, stage: Stage) -> None:
        """F9: the client hears nothing of it, is charged once, and the next request goes without it at once."""
        stage.provider.refuses = [(422, b'{"detail":"extra field: stream_options"}')]
        client = Client(stream=True)
        assert await run(stage, client, *WORDS[:2], DONE) == (INPUT_TOKENS, 2)
        assert (client.status, client.got) == (200, b"".join(WORDS[:2]) + DONE)
        await _second(stage, *WORDS[:2], DONE)
        assert [b"stream_options" in body for body in stage.provider.bodies] == [True, False, False]

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_maximum_gets_its_older_name(self, stage: Stage, stream: bool) -> None:
        """F9: near a quota we tell a maximum; each refusal costs one try, and nothing else."""
        await stage.limit(50)
        stage.provider.refuses = [(400, b"unknown field max_completion_tokens")]
        body = json.dumps({"choices": [{"message": {"content": " one two"}}]}).encode()
        client = Client(stream=stream, model="some-model")
        stage.provider.pieces, stage.provider.body = [*WORDS[:2], DONE], body
        await stage.exchange(client).run()
        assert client.status == 200
        if not stream:
            first, second = map(json.loads, stage.provider.bodies)
            assert first["max_completion_tokens"] == second["max_tokens"]
            assert "max_completion_tokens" not in second

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_maximum_that_the_model_cannot_answer(self, stage: Stage, stream: bool) -> None:
        """Ours is of a model that nobody knows: a smaller one answers without it."""
        await stage.limit(5000 if not stream else 50)
        told = (
            b"'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048"
        )
        stage.provider.refuses = [(400, told)]
        body = json.dumps({"choices": [{"message": {"content": " one two"}}]}).encode()
        client = Client(stream=stream, model="some-model")
        assert await run(stage, client, *WORDS[:2], DONE, body=body) == (INPUT_TOKENS, 2)
        first, second = map(json.loads, stage.provider.bodies)
        assert client.status == 200
        assert "max_completion_tokens" in first
        assert not {"max_completion_tokens", "max_tokens"} & second.keys()

    async def test_a_refusal_that_stays(self, stage: Stage) -> None:
        """The client gets the last one, and it is free."""
        stage.provider.refuses = [(422, b"stream_options"), (422, b"no such model")]
        client = Client(stream=True)
        assert await run(stage, client, *WORDS) is None
        assert (client.status, client.got) == (422, b"no such model")


class TestOddJson:
    """As SDKs read it."""

    @pytest.mark.parametrize("stream", [True, False])
    async def test_numbers_that_are_none(self, stage: Stage, stream: bool) -> None:
        """F10: -Infinity in logprobs."""
        choice = b'"choices":[{"index":0,"%b":{"content":" one"},"logprobs":{"content":[{"logprob":-Infinity}]}}]'
        body = b'{%b,"usage":{"prompt_tokens":21,"completion_tokens":17}}' % (
            choice % (b"delta" if stream else b"message")
        )
        client = Client(stream=stream)
        pieces = [b"data: " + body + b"\n\n", DONE]
        assert await run(stage, client, *pieces, body=body) == (21, 17)
        assert client.got == (b"".join(pieces) if stream else body)

    async def test_a_bom(self, stage: Stage) -> None:
        """F10: of a whole answer."""
        body = b"\xef\xbb\xbf" + json.dumps({"choices": [], "usage": usage(21, 17)}).encode()
        client = Client()
        assert await run(stage, client, body=body) == (21, 17)
        assert client.got == body

    async def test_blank_lines_before_a_whole_answer(self, stage: Stage) -> None:
        """F12: to who asked for a stream."""
        body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage(21, 17)}).encode()
        client = Client(stream=True)
        assert await run(stage, client, b"\n\n", body) == (21, 17)
        assert client.got == b"\n\n" + body


class TestLineEnds:
    """F11: LF, CR and CRLF in any mixture, and a BOM."""

    @pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
    @pytest.mark.parametrize("blank", [b"\n", b"\r", b"\r\n"])
    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    async def test_each_event_passes_at_once(self, stage: Stage, end: bytes, blank: bytes, bom: bytes) -> None:
        """Text, usage and the end are read."""
        if end + blank == b"\r\n":
            pytest.skip("that is one line end")
        styled = [piece[:-2] + end + blank for piece in (*WORDS[:2], event(usage=usage(21, 17)), DONE)]
        client = Client(stream=True)
        assert await run(stage, client, bom + styled[0], *styled[1:]) == (21, 17)
        assert client.got == bom + b"".join((*styled[:2], styled[3]))
