"""Sound that is passed on as bytes: settled once however it ends, for what reached the client.

About: `proxy/binary.py`, `endpoints/speech.py`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.endpoints.speech import SPEECH
from sentinel.error import UpstreamError
from tests.exchange.driver import Client, Stage
from tests.exchange.test_settling import leave
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
