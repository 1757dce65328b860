"""Ten thousand clients that begin a request and say no more: they harm nobody, cost little, and are shown out."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until

MOST, LEAST = 10_000, 2_000
SPARE_FILES = 200
"""For what this process opens meanwhile. What other tests have left open in it is counted."""
USUAL_SOFT_LIMIT = 1024
HEAD_SECONDS = 6
"""Several times what it takes to say the first word over all of them. Others are served meanwhile, within 0.003 s."""
SOME_FILES = 10
"""Connections to Redis, Zion and the provider may come and go."""
CONNECTION_BYTES = 14_000
"""Resident memory for a connection that has begun a request; measured were 6,500."""
NOISE_BYTES = 8_000_000
"""By which a process may grow for other reasons, among them its first request."""


@contextmanager
def soft_limit(files: int) -> Iterator[None]:
    """How many files this process, and what it starts, may hold open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def files_of(pid: int | str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def open_files(sentinel: SentinelProcess) -> int:
    return files_of(sentinel.pid)


def rss_bytes(sentinel: SentinelProcess) -> int:
    return int(Path(f"/proc/{sentinel.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def idle_connections(sentinel: SentinelProcess, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that Sentinel has accepted, each with the first bytes of a request."""
    before = open_files(sentinel)
    connections: list[socket.socket] = []
    try:
        connections += (
            socket.create_connection(("127.0.0.1", sentinel.port), timeout=PATIENCE_SECONDS) for _ in range(count)
        )
        wait_until(lambda: open_files(sentinel) >= before + count - SOME_FILES, f"{count} accepted connections")
        for connection in connections:
            connection.sendall(b"POST /")
        yield connections
    finally:
        for connection in connections:
            connection.close()


def test_ten_thousand_idle_connections() -> None:
    """Others are served meanwhile, also where 1024 open files are the custom; memory is bounded and used again."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_of("self") + SPARE_FILES
    count = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard - needed)
    if count < LEAST:
        pytest.skip(f"the hard limit of open files is {hard}")
    with Stack(REQUEST_HEADER_TIMEOUT_SECONDS=str(HEAD_SECONDS)) as stack:
        with soft_limit(USUAL_SOFT_LIMIT):
            sentinel = stack.sentinel()
        _, token = stack.user()
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
        files, memory = open_files(sentinel), rss_bytes(sentinel)

        with soft_limit(count + needed), idle_connections(sentinel, count) as connections:
            held = rss_bytes(sentinel) - memory
            assert held < count * CONNECTION_BYTES + NOISE_BYTES
            for stream in (False, True):
                started = time.monotonic()
                assert post(sentinel, token, chat("[[tokens=1]]", stream=stream)).status == 200
                assert time.monotonic() - started < HEAD_SECONDS
            wait_until(lambda: open_files(sentinel) <= files + SOME_FILES, "the end of them all")
            assert {connection.recv(12) for connection in connections} == {b"HTTP/1.1 408"}

        # What they had is there for the next ones, whoever closes first. The allocator keeps most of it for them.
        with soft_limit(count + needed), idle_connections(sentinel, count):
            assert rss_bytes(sentinel) - memory < held + NOISE_BYTES
        wait_until(lambda: open_files(sentinel) <= files + SOME_FILES, "the end of what clients closed")
        # Ten thousand that close in one moment can keep a busy machine from Redis' answer for its 250 ms.
        wait_until(lambda: post(sentinel, token, chat("[[tokens=1]]")).status == 200, "an answer")
        assert sentinel.stop() == 0
