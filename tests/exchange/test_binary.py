"""Sound and images, as bytes and as events: settled once however they end, for no less than what reached the client.

About: `proxy/binary.py`, `endpoints/speech.py`, `endpoints/encoded_stream.py`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.endpoints.speech import SPEECH
from sentinel.error import AppError, UpstreamError, UpstreamTimeout
from tests.exchange.driver import Client, Stage
from tests.exchange.test_settling import answers, asking, leave
from tests.support.formats import OF_MEDIA, USAGE, Format
from tests.support.metering import Stepped

SECOND = b"\0" * 48_000
KIND = b"content-type: audio/pcm\r\n"
INPUT = 2


def client(**fields: Any) -> Client:
    return Client(model="gpt-4o-mini-tts", input="hello world", response_format="pcm", **fields)


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    stage = Stage(store, tmp_path)
    stage.provider.header_lines = KIND
    return stage


async def test_bytes_pass_and_are_charged(stage: Stage) -> None:
    """Each piece as it came, whatever is in it; 20 tokens a second."""
    asks, pieces = client(), [b"data: ", b"\n\n[DONE]", SECOND, SECOND]
    stage.provider.pieces = [*pieces]
    await stage.exchange(asks, SPEECH).run()
    assert (asks.got, asks.complete, asks.status) == (b"".join(pieces), True, 200)
    assert list((await stage.settled()).values()) == [(1, INPUT, 41)]
    assert (stage.ended[-1].outcome, stage.ended[-1].streamed) == ("ok", False)


async def test_a_break_is_no_end(stage: Stage) -> None:
    """What came is paid for; before anything came it is an error, and free."""
    asks = client()
    stage.provider.pieces = [SECOND, UpstreamError("gone")]
    await stage.exchange(asks, SPEECH).run()
    assert (asks.got, asks.complete) == (SECOND, False)
    assert list((await stage.settled()).values()) == [(1, INPUT, 20)]
    assert stage.ended[-1].outcome == "broken"


async def test_a_page_is_no_sound(stage: Stage) -> None:
    """Something else than the provider has answered: free, and an error."""
    asks = client()
    stage.provider.body, stage.provider.header_lines = b"<html>", b"content-type: text/html\r\n"
    await stage.exchange(asks, SPEECH).run()
    assert (asks.status, await stage.settled()) == (502, {})


@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
@pytest.mark.parametrize("slow", [True, False], ids=["waited_for", "in_passing"])
async def test_cancelled_at_every_step(store: Store, tmp_path: Path, gone: bool, slow: bool) -> None:
    """It is settled once, for no less than what reached the client, and never taken for whole."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, asks = Stage(store, tmp_path), client(slow=slow)
        stage.provider.header_lines = KIND
        stage.provider.pieces = [SECOND, SECOND, SECOND]
        stepped = Stepped(stage.exchange(asks, SPEECH).run(), step)
        await stepped.run(leave(asks) if gone else lambda: None)
        records = list((await stage.settled()).values())
        assert len(records) <= 1
        seconds = len(asks.got) // len(SECOND) if asks.status == 200 else 0
        if seconds:
            assert records == [(1, INPUT, 20 * seconds)], step
        elif records:
            assert records == [(1, INPUT, 0)], step
        assert asks.complete <= (seconds == 3 or asks.status == 503), step
        assert stage.provider.closed <= stage.provider.opened, step
        if not stepped.cancelled:
            break
    assert (step >= 6, asks.complete) == (True, True)


events = pytest.mark.parametrize("format_", OF_MEDIA.values(), ids=OF_MEDIA)


@events
@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
@pytest.mark.parametrize("slow", [True, False], ids=["waited_for", "in_passing"])
async def test_events_cancelled_at_every_step(
    store: Store, tmp_path: Path, format_: Format, gone: bool, slow: bool
) -> None:
    """What usage tells counts, else what was delivered does; who leaves before that pays for the input."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, asks = Stage(store, tmp_path), asking(format_, stream=True, slow=slow)
        answers(stage, format_)
        stepped = Stepped(stage.exchange(asks, format_.endpoint).run(), step)
        await stepped.run(leave(asks) if gone else lambda: None)
        records = list((await stage.settled()).values())
        if format_.tells_usage(stage.provider.read):
            assert records == [(1, *USAGE)], step
        elif format_.pieces[0] in asks.got:
            assert [(cost[:2], cost[2] > 0) for cost in records] == [((1, format_.input), True)], step
        else:
            is_owed = gone and bool(stage.provider.requests)
            assert [cost[:2] for cost in records] == [(1, format_.input)] * is_owed, step
        assert stage.provider.closed == stage.provider.opened, step
        if not stepped.cancelled:
            break
    assert (step >= 10, asks.complete, asks.got) == (True, True, b"".join(format_.stream))


@events
@pytest.mark.parametrize("failure", [UpstreamError("x"), UpstreamTimeout("x"), None], ids=["breaks", "hangs", "ends"])
async def test_events_that_break_at_every_place(
    store: Store, tmp_path: Path, format_: Format, failure: AppError | None
) -> None:
    """What was delivered is charged, before the first piece nothing is, and one last event tells the client."""
    for place in range(len(format_.stream)):
        await store.client.flushall()
        stage, asks = Stage(store, tmp_path), asking(format_, stream=True)
        sent = format_.stream[:place]
        stage.provider.pieces = [*sent, *([failure] if failure else [])]
        await stage.exchange(asks, format_.endpoint).run()
        records = list((await stage.settled()).values())
        assert [(cost[:2], cost[2] > 0) for cost in records] == [((1, format_.input), True)] * bool(place), place
        assert asks.got.startswith(b"".join(sent)), place
        told = asks.got.removeprefix(b"".join(sent))
        assert (failure or UpstreamError).code.encode() in told, place
        assert (told.count(b"\n\n"), asks.complete, stage.ended[0].outcome) == (1, True, "broken"), place
