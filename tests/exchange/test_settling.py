"""However a request ends, it is settled once: nothing stays reserved, and what was delivered is charged, exactly.

About: `proxy/admission.py`, `proxy/exchange.py`, `proxy/forwarding.py`, `proxy/registry.py`, `proxy/relay.py`,
`proxy/state.py`, `proxy/streaming.py`, `proxy/whole.py`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.error import AppError, RedisUnavailable, UpstreamError, UpstreamTimeout
from sentinel.proxy.array_client import ArrayClientSide
from sentinel.proxy.client import ClientSide
from sentinel.tokens.bpe import count_for
from tests.exchange.driver import DONE, INPUT_TOKENS, Client, Provider, Stage, event, usage
from tests.support.formats import FORMATS, FREE, OF_MEDIA, STREAMS, TEXT, USAGE, WHOLES, Format
from tests.support.metering import Stepped

WORDS = [" one", " two", " three", " four"]
STREAM = [event(word) for word in WORDS]
WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"content": "one two"}, "finish_reason": "stop"}], "usage": usage(9, 2)}
).encode()

count = count_for("gpt-4o-mini")


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


async def ended(stage: Stage, client: Client, **provider: Any) -> tuple[int, int, int] | None:
    """Run one exchange to its end; what it was charged."""
    _script(stage.provider, **provider)
    await stage.exchange(client).run()
    records = await stage.settled()
    return next(iter(records.values()), None)


def _script(provider: Provider, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(provider, name, value)


class TestEndings:
    """What each ending costs."""

    async def test_a_finished_stream_costs_what_the_provider_says(self, stage: Stage) -> None:
        """The usage chunk counts, not what we counted."""
        client = Client(stream=True)
        pieces = [*STREAM, event(usage=usage(11, 40)), DONE]
        assert await ended(stage, client, pieces=pieces) == (1, 11, 40)
        assert client.got == b"".join(STREAM) + DONE
        assert stage.ended[0].outcome == "ok"

    async def test_without_usage_it_costs_what_was_delivered(self, stage: Stage) -> None:
        """Our own count stands in."""
        assert await ended(stage, Client(stream=True), pieces=[*STREAM, DONE]) == (1, INPUT_TOKENS, 4)

    async def test_a_whole_answer(self, stage: Stage) -> None:
        """Its usage is charged before it leaves."""
        client = Client()
        assert await ended(stage, client, body=WHOLE) == (1, 9, 2)
        assert client.got == WHOLE

    @pytest.mark.parametrize(
        ("told", "charged"),
        [
            ({"prompt_tokens": 30}, (1, 30, 2)),
            ({"completion_tokens": 7}, (1, INPUT_TOKENS, 7)),
            ({"prompt_tokens": 30, "completion_tokens": None}, (1, 30, 2)),
            ({"prompt_tokens": 30, "completion_tokens": 0}, (1, 30, 2)),
            ({"total_tokens": 9}, (1, INPUT_TOKENS, 2)),
        ],
    )
    async def test_usage_that_tells_half(
        self, stage: Stage, told: dict[str, Any], charged: tuple[int, int, int]
    ) -> None:
        """What it does not tell is counted."""
        assert await ended(stage, Client(), body=json.dumps({**json.loads(WHOLE), "usage": told}).encode()) == charged

    @pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8"])
    async def test_a_whole_answer_to_who_asked_for_a_stream(self, stage: Stage, kind: bytes) -> None:
        """It is passed on as it is, and charged as what it is."""
        client = Client(stream=True)
        assert await ended(stage, client, body=WHOLE, header_lines=b"content-type: %b\r\n" % kind) == (1, 9, 2)
        assert (client.status, client.got) == (200, WHOLE)

    @pytest.mark.parametrize("kind", [b"application/json", b"text/html", b"text/plain", b""])
    async def test_a_stream_under_another_name(self, stage: Stage, kind: bytes) -> None:
        """A wrong content type does not make it less of a stream."""
        client = Client(stream=True)
        lines = b"content-type: %b\r\n" % kind if kind else b""
        assert await ended(stage, client, pieces=[*STREAM, DONE], header_lines=lines) == (1, INPUT_TOKENS, 4)
        assert client.got == b"".join(STREAM) + DONE

    async def test_running_usage_is_not_the_last_word(self, stage: Stage) -> None:
        """A provider that tells usage in every chunk, late, does not make a broken stream cheaper than delivered."""
        pieces = [event(word, usage=usage(9, max(0, n - 2))) for n, word in enumerate(WORDS)]
        client = Client(stream=True)
        assert await ended(stage, client, pieces=[*pieces, UpstreamError("x")]) == (1, 9, 4)

    @pytest.mark.parametrize("end", [b"data: [DONE]\n", b"data: [DONE]", b""])
    async def test_a_stream_without_a_proper_end(self, stage: Stage, end: bytes) -> None:
        """Where the last blank line or [DONE] itself is missing, all bytes pass, and the usage counts."""
        client = Client(stream=True)
        assert await ended(stage, client, pieces=[*STREAM, event(usage=usage(11, 40)), end]) == (1, 11, 40)
        assert client.got == b"".join(STREAM) + end

    async def test_tool_calls_and_refusals_are_counted(self, stage: Stage) -> None:
        """Text, names and arguments of tool calls, and refusals: all that was delivered counts."""
        deltas: list[dict[str, Any]] = [
            {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
            {"refusal": "I cannot"},
            {"refusal": " do that"},
            {"content": "Hello"},
        ]
        pieces = [event(choices=[{"index": 0, "delta": delta}]) for delta in deltas]
        expected = sum(count(text) for text in ("get_weather", '{"city":"Oslo"}', "I cannot do that", "Hello"))
        client = Client(stream=True)
        assert await ended(stage, client, pieces=[*pieces, UpstreamError("x")]) == (1, INPUT_TOKENS, expected)


def leave(client: Client) -> Callable[[], None]:
    """What the server does when the client closes its connection, except for the cancelling."""

    def left() -> None:
        client.connection.gone = client.side.gone = True

    return left


formats = pytest.mark.parametrize("format_", FORMATS.values(), ids=FORMATS)
streams = pytest.mark.parametrize("format_", STREAMS.values(), ids=STREAMS)
wholes = pytest.mark.parametrize("format_", WHOLES.values(), ids=WHOLES)
EVERY = [(format_, True) for format_ in (STREAMS | OF_MEDIA).values()] + [(each, False) for each in WHOLES.values()]
every = pytest.mark.parametrize(
    ("format_", "stream"), EVERY, ids=[*(f"{name}-stream" for name in STREAMS | OF_MEDIA), *WHOLES]
)


def asking(format_: Format, *, stream: bool, slow: bool = True) -> Client:
    """A client of this format."""
    client = Client(slow=slow, side=ArrayClientSide if format_.is_array and stream else ClientSide)
    client.body, kind = format_.body(stream=stream)
    client.side.headers = {**client.side.headers, b"content-type": kind}
    return client


def answers(stage: Stage, format_: Format) -> None:
    """Its provider has a whole stream, and a whole answer."""
    stage.provider.pieces, stage.provider.header_lines = [*format_.stream], format_.stream_lines
    stage.provider.body = format_.whole


def owed(stage: Stage, client: Client, format_: Format, *, gone: bool) -> list[tuple[int, int, int]]:
    """What a cancelled stream must have cost, by what the provider and the client saw of it."""
    if format_.tells_usage(stage.provider.read):
        return [(1, *USAGE)]
    text = format_.text(client.got)
    if text or (gone and stage.provider.requests):
        return [(1, format_.input, count(text))]
    return []


@every
@pytest.mark.parametrize("status", [400, 404, 409, 422, 429, 401, 403, 500, 503])
async def test_a_refusal_upstream_is_free(stage: Stage, format_: Format, stream: bool, status: int) -> None:
    """Nothing is charged for what the provider refuses; its 4xx passes, unless it is about our key."""
    client = asking(format_, stream=stream)
    stage.provider.status, stage.provider.body = status, b'{"error":{}}'
    endpoint = format_.at(stream=stream)
    await stage.exchange(client, endpoint).run()
    assert await stage.settled() == {}
    passes = status not in (401, 403, 500, 503) or status in endpoint.passed_statuses
    assert client.status == (status if passes else 502)


@every
@pytest.mark.parametrize(("failure", "status"), [(UpstreamError("x"), 502), (UpstreamTimeout("x"), 504)])
async def test_no_answer_is_free(stage: Stage, format_: Format, stream: bool, failure: Any, status: int) -> None:
    """Nothing is charged for an answer that did not begin."""
    client = asking(format_, stream=stream)
    stage.provider.failure = failure
    await stage.exchange(client, format_.at(stream=stream)).run()
    assert await stage.settled() == {}
    assert client.status == status


@every
async def test_garbage_is_free(stage: Stage, format_: Format, stream: bool) -> None:
    """A 200 that is a page of something else than the provider is a broken answer."""
    client, page = asking(format_, stream=stream), b"content-type: text/html; charset=utf-8\r\n"
    stage.provider.body, stage.provider.header_lines, stage.provider.whole_lines = b"\n<html>", page, page
    await stage.exchange(client, format_.at(stream=stream)).run()
    assert await stage.settled() == {}
    assert client.status == 502


@pytest.mark.parametrize("format_", [each for each in STREAMS.values() if not each.is_array])
@pytest.mark.parametrize("failure", [UpstreamError("x"), UpstreamTimeout("x"), None], ids=["breaks", "hangs", "ends"])
async def test_a_stream_that_breaks_at_every_place(
    store: Store, tmp_path: Path, format_: Format, failure: AppError | None
) -> None:
    """What was delivered is charged, before the first piece nothing is, and one last event tells the client.

    A stream that simply ends is whole in the formats whose last event says nothing.
    """
    for place in range(len(format_.stream)):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asking(format_, stream=True)
        sent = format_.stream[:place]
        stage.provider.pieces = [*sent, *([failure] if failure else [])]
        await stage.exchange(client, format_.at(stream=True)).run()
        assert list((await stage.settled()).values()) == owed(stage, client, format_, gone=False), place
        shown = b"".join(piece for piece in sent if b'"choices": []' not in piece)
        assert client.got.startswith(shown), place
        told = client.got.removeprefix(shown)
        if failure is None and format_.stream[-1] == DONE:
            assert told == b"", place
        else:
            assert (failure or UpstreamError).code.encode() in told.lower(), place
            assert (told.count(b"\n\n"), client.complete) == (1, True), place
            assert stage.ended[0].outcome == "broken", place


@streams
@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
@pytest.mark.parametrize("room", [1000, 200], ids=["with_room", "near_its_limit"])
@pytest.mark.parametrize("slow", [True, False], ids=["waited_for", "in_passing"])
async def test_a_stream_cancelled_at_every_step(
    store: Store, tmp_path: Path, format_: Format, gone: bool, room: int, slow: bool
) -> None:
    """Wherever a stream is cancelled it is settled once, for exactly what reached the client."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path, default_output=room), asking(format_, stream=True, slow=slow)
        await stage.limit(100_000)
        answers(stage, format_)
        stepped = Stepped(stage.exchange(client, format_.at(stream=True)).run(), step)
        await stepped.run(leave(client) if gone else lambda: None)
        assert list((await stage.settled()).values()) == owed(stage, client, format_, gone=gone), step
        assert len(stage.ended) == 1, step
        assert stage.provider.closed == stage.provider.opened, step
        if not stepped.cancelled:
            break
    assert step >= (18 if slow else 12)
    assert client.complete


@wholes
@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
async def test_a_whole_answer_cancelled_at_every_step(
    store: Store, tmp_path: Path, format_: Format, gone: bool
) -> None:
    """Wherever a request is cancelled it is settled once; a client that leaves pays for the input that was sent on."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asking(format_, stream=False)
        stage.provider.body = format_.whole
        exchange = stage.exchange(client, format_.at(stream=False))
        stepped = Stepped(exchange.run(), step)
        await stepped.run(leave(client) if gone else lambda: None)
        records = list((await stage.settled()).values())
        if exchange.context.first_byte:
            assert records == [(1, *format_.usage)], step
        else:
            assert records == ([(1, format_.input, 0)] if gone and stage.provider.requests else []), step
        assert not client.complete or client.status == 503 or records == [(1, *format_.usage)], step
        if not stepped.cancelled:
            break
    assert step >= 8
    assert client.complete


@pytest.mark.parametrize("format_", FREE.values(), ids=FREE)
@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
@pytest.mark.parametrize("status", [200, 404, 500])
async def test_what_is_free_cancelled_at_every_step(
    store: Store, tmp_path: Path, format_: Format, gone: bool, status: int
) -> None:
    """It stays so."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asking(format_, stream=False)
        stage.provider.body, stage.provider.status = format_.whole, status
        stepped = Stepped(stage.exchange(client, format_.endpoint).run(), step)
        await stepped.run(leave(client) if gone else lambda: None)
        assert await stage.settled() == {}, step
        if not stepped.cancelled:
            break
    assert step >= 8
    assert client.complete


@pytest.mark.parametrize("name", ["chat", "completions", "native"])
@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
@pytest.mark.parametrize("slow", [True, False], ids=["waited_for", "in_passing"])
async def test_a_finished_stream_cancelled_at_every_step(
    store: Store, tmp_path: Path, name: str, gone: bool, slow: bool
) -> None:
    """From its finish reason on it costs what the provider says, though nobody waits for that.

    In the other formats the event that has it tells the usage, too.
    """
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    format_ = FORMATS[name]
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asking(format_, stream=True, slow=slow)
        stage.provider.pieces = [*format_.pieces, event(choices=[end]), *format_.end]
        stepped = Stepped(stage.exchange(client, format_.endpoint).run(), step)
        await stepped.run(leave(client) if gone else lambda: None)
        records = list((await stage.settled()).values())
        has_end = b'"finish_reason": "stop"' in client.got
        assert records == ([(1, 11, 40)] if has_end else owed(stage, client, format_, gone=gone)), step
        assert stage.provider.closed == stage.provider.opened, step
        if not stepped.cancelled:
            break
    assert step >= (18 if slow else 12)


@streams
async def test_cancelled_twice(store: Store, tmp_path: Path, format_: Format) -> None:
    """A client that leaves and a shutdown right behind it: still settled once, for what was delivered."""
    for first, second in itertools.product(range(6, 20, 2), range(1, 6)):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asking(format_, stream=True)
        answers(stage, format_)
        inner = Stepped(stage.exchange(client, format_.at(stream=True)).run(), first)
        await Stepped(inner.run(leave(client)), first + second).run()
        assert list((await stage.settled()).values()) == owed(stage, client, format_, gone=True), (first, second)


@every
async def test_a_refusal_upstream_cancelled_at_every_step(
    store: Store, tmp_path: Path, format_: Format, stream: bool
) -> None:
    """A client that leaves while the provider's refusal is on its way pays nothing for it."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asking(format_, stream=stream)
        stage.provider.status, stage.provider.body = 400, b"{}"
        exchange = stage.exchange(client, format_.at(stream=stream))
        stepped = Stepped(exchange.run(), step)
        await stepped.run(leave(client))
        records = list((await stage.settled()).values())
        unanswered = bool(stage.provider.requests) and not exchange.context.first_byte
        assert records == ([(1, format_.input, 0)] if unanswered else []), step
        if not stepped.cancelled:
            break
    assert step >= 8


class TestAbandoned:
    """A client that leaves."""

    @streams
    @pytest.mark.parametrize("drain", [False, True])
    async def test_cancelled_or_drained(self, store: Store, tmp_path: Path, format_: Format, drain: bool) -> None:
        """By default what was delivered is charged; drained, what the provider says in the end."""
        stage, client = Stage(store, tmp_path, drain=drain), asking(format_, stream=True)
        answers(stage, format_)
        exchange = stage.exchange(client, format_.endpoint)
        await Stepped(exchange.run(), lambda: format_.text(client.got) == TEXT[:8]).run(leave(client))
        charged = list((await stage.settled()).values())
        assert charged == ([(1, *USAGE)] if drain else [(1, format_.input, 2)])
        assert stage.provider.closed == 1
        assert stage.ended[0].outcome == "client_gone"

    @streams
    async def test_drained_from_a_provider_that_breaks(self, store: Store, tmp_path: Path, format_: Format) -> None:
        """Without the provider's word what was delivered is charged."""
        stage, client = Stage(store, tmp_path, drain=True), asking(format_, stream=True)
        stage.provider.pieces, stage.provider.header_lines = (
            [*format_.stream[:-1], UpstreamError("x")],
            format_.stream_lines,
        )
        exchange = stage.exchange(client, format_.endpoint)
        await Stepped(exchange.run(), lambda: format_.text(client.got) == TEXT[:8]).run(leave(client))
        assert list((await stage.settled()).values()) == owed(stage, client, format_, gone=True)

    @every
    async def test_gone_before_anything_was_sent_on(self, stage: Stage, format_: Format, stream: bool) -> None:
        """A client that left before its request reached the provider pays nothing."""
        client = asking(format_, stream=stream)
        client.connection.gone = True
        answers(stage, format_)
        await stage.exchange(client, format_.at(stream=stream)).run()
        assert (await stage.settled(), stage.provider.requests) == ({}, [])

    @every
    async def test_gone_after_the_last_byte(self, stage: Stage, format_: Format, stream: bool) -> None:
        """Whoever has it all is no deserter, even while the provider's connection is still being read to its end."""
        client = asking(format_, stream=stream)
        answers(stage, format_)
        stage.provider.pieces.append(b"")
        await stage.exchange(client, format_.at(stream=stream)).run()
        assert list((await stage.settled()).values()) == [(1, *(USAGE if stream else format_.usage))]
        assert client.complete
        assert not stream or not client.watched_to_the_end
        assert stage.ended[0].outcome == "ok"


@streams
async def test_a_stream_at_its_limit_costs_what_was_delivered(store: Store, tmp_path: Path, format_: Format) -> None:
    """The provider's usage of what was cut off is not charged."""
    stage, client = Stage(store, tmp_path, default_output=2), asking(format_, stream=True)
    await stage.limit(2)
    answers(stage, format_)
    await stage.exchange(client, format_.endpoint).run()
    assert list((await stage.settled()).values()) == [(1, format_.input, 2)]
    assert format_.text(client.got) == TEXT[:8]
    assert (stage.ended[0].outcome, client.complete) == ("limit", True)


@every
async def test_a_slow_ledger_loses_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, format_: Format, stream: bool
) -> None:
    """A settlement that Redis does not take in time goes to the spool, and from there to Redis, once."""
    client = asking(format_, stream=stream)
    answers(stage, format_)
    settle = stage.ledger.settle

    async def done_but_unanswered(*call: Any, **more: Any) -> bool:
        await settle(*call, **more)
        raise RedisUnavailable("no answer")

    monkeypatch.setattr(stage.ledger, "settle", done_but_unanswered)
    await stage.exchange(client, format_.at(stream=stream)).run()
    assert client.complete
    assert stage.deps.tracker.spooled == 1
    monkeypatch.undo()
    assert await stage.deps.tracker.replay() == 1
    assert await stage.settled() == {"req_1": (1, *(USAGE if stream else format_.usage))}
