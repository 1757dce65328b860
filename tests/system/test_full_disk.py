"""The disk of Redis is full: what that means for requests is declared, nothing is lost, and room is all it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.dev.store import EmbeddedStore
from tests.support.client import Answer
from tests.support.disks import fill, small_disk
from tests.support.stack import Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until


@pytest.mark.parametrize("redis_down", ["refuse", "local"])
def test_the_disk_of_redis_is_full(tmp_path: Path, redis_down: str) -> None:
    """Requests get 503, or are admitted from memory, their usage spooled; with room again all are served, and told."""
    with small_disk(tmp_path / "disk") as disk, Stack(REDIS_DOWN=redis_down) as stack:
        stack.store.kill()
        store = EmbeddedStore(disk / "store", port=stack.store.port)
        with store:
            sentinel = stack.sentinel()
            _, token = stack.user()
            assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
            stack.booked(1)
            fill(disk / "rest")
            answers: list[Answer] = []

            def is_noticed() -> bool:
                answers.append(post(sentinel, token, chat("[[tokens=1]]")))
                return sentinel.metric("sentinel_degraded") == 1

            wait_until(is_noticed, "a full disk")
            if redis_down == "refuse":
                assert post(sentinel, token, chat("[[tokens=1]]")).is_error(503, "service_unavailable", "server_error")
                wait_until(lambda: send(sentinel, "GET", "/health/ready").status == 503, "unreadiness")
            else:
                answers += [post(sentinel, token, chat("[[tokens=1]]")) for _ in range(5)]
                assert {answer.status for answer in answers} == {200}
            (disk / "rest").unlink()
            wait_until(lambda: send(sentinel, "GET", "/health/ready").status == 200, "readiness")
            wait_until(lambda: sentinel.metric("sentinel_degraded") == 0, "the end of it in the metrics")
            answers.append(post(sentinel, token, chat("[[tokens=1]]")))
            assert answers[-1].status == 200
            served = 1 + sum(answer.status == 200 for answer in answers)
            assert stack.booked(served, seconds=20)["ai_requests"] == served
            assert sentinel.metric("sentinel_usage_lost_total") == 0
            assert sentinel.stop() == 0
