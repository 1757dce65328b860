"""Sentinel behind Redis Sentinel: the master is found, and found again when another one takes over."""

from __future__ import annotations

import asyncio
import contextlib

from redis import Redis

from sentinel.dev.store import EmbeddedStore
from tests.support.crowd import crowd, post
from tests.support.stack import Stack
from tests.support.surface import chat
from tests.support.waiting import until, wait_until
from tests.support.watcher import watcher

OUTPUT = 7
BODY = chat(f"[[tokens={OUTPUT}]]")


def in_step(replica: EmbeddedStore) -> bool:
    """Whether it follows its master."""
    with contextlib.closing(Redis(port=replica.port)) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


async def test_another_master_takes_over(stack: Stack) -> None:
    """Admission is exact before and after; meanwhile 503, afterwards 200 without a restart, and all usage is booked."""
    folder = stack.folder / "replicated"
    at_once = {"repl-diskless-sync-delay": "0"}
    with EmbeddedStore(folder / "first", appendonly="no", extra=at_once) as first:
        follows = {**at_once, "replicaof": f"127.0.0.1 {first.port}"}
        with (
            EmbeddedStore(folder / "second", appendonly="no", extra=follows) as second,
            contextlib.ExitStack() as exits,
        ):
            await asyncio.to_thread(wait_until, lambda: in_step(second), "the replica")
            port = exits.enter_context(watcher(folder, first))
            sentinel = stack.sentinel(
                REDIS_URL=f"redis+sentinel://127.0.0.1:{port}/main", RATE_LIMITS="ai_requests=50/1h"
            )
            (_, token), (_, other) = stack.user("before@corp.test"), stack.user("after@corp.test")
            answers = await crowd([sentinel], token, [BODY] * 200)
            assert [answer.status for answer in answers].count(200) == 50
            await asyncio.to_thread(stack.booked, 50, "before@corp.test")

            first.kill()
            assert (await post(sentinel, other, BODY)).status == 503

            async def served() -> bool:
                return (await post(sentinel, other, BODY)).status == 200

            await until(served, "the new master")
            # What the old master knew, the new one knows: the window is still full.
            assert (await post(sentinel, token, BODY)).status == 429
            answers = await crowd([sentinel], other, [BODY] * 200)
            assert [answer.status for answer in answers].count(200) == 49
            booked = await asyncio.to_thread(stack.booked, 50, "after@corp.test")
            assert (booked["ai_requests"], booked["ai_output_tokens"]) == (50, 50 * OUTPUT)
