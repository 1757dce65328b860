"""What applications see while one of two providers is killed and comes back (docs/providers.md)."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.plan import Plan
from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.ports import free_port
from sentinel.dev.server import Server
from tests.support.client import request
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, post
from tests.support.waiting import wait_until

CALLERS = 16
STEP_SECONDS = 0.25
_KEY = "sk-bench-provider"
_BODY: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "[[tokens=6 delay=0.01]]"}]}
_FILE = """
[providers.first]
type = "openai"
url = "http://127.0.0.1:{first}/v1"
api_key = "env:BENCH_KEY"
[providers.second]
type = "openai"
url = "http://127.0.0.1:{second}/v1"
api_key = "env:BENCH_KEY"
[models."*"]
targets = [{{ provider = "first" }}]
fallback = [{{ provider = "second" }}]
"""


def failover(plan: Plan) -> dict[str, Any]:
    """How many requests each provider answered, and how many failed, in each step of time."""
    killed, back, ends = plan.failover
    first, second = free_port(), free_port()
    ended: list[tuple[float, str]] = []
    with Stack() as stack, _provider(second):
        file = Path(stack.folder) / "sentinel.toml"
        file.write_text(_FILE.format(first=first, second=second))
        sentinel = stack.sentinel(SENTINEL_CONFIG=str(file), BENCH_KEY=_KEY)
        _, token = stack.user("failover@bench.test")
        over = threading.Event()
        with ThreadPoolExecutor(CALLERS) as pool:
            try:
                with _provider(first) as process:
                    begun = time.monotonic()
                    for _ in range(CALLERS):
                        pool.submit(_ask, sentinel, token, over, ended)
                    time.sleep(killed)
                    process.kill()
                died = time.monotonic() - begun
                time.sleep(back - killed)
                with _provider(first):
                    time.sleep(ends - back)
            finally:
                over.set()
        lines = sentinel.ended(len(ended))
        tried = [line for line in lines if len(line["attempts"]) > 1]
        wait_until(lambda: stack.used("failover@bench.test")["ai_requests"] >= len(ended), "usage")
        booked = stack.used("failover@bench.test")["ai_requests"]
    columns = int(ends / STEP_SECONDS)
    steps: dict[str, list[int]] = {name: [0] * columns for name in ("first", "second", "failed")}
    for at, by in ended:
        if (column := int((at - begun) / STEP_SECONDS)) < columns:
            steps[by][column] += 1
    return {
        "died": died,
        "step_seconds": STEP_SECONDS,
        "steps": steps,
        "failed": sum(by == "failed" for _, by in ended),
        "requests": len(ended),
        "booked": booked,
        "tried_twice": len(tried),
    }


def _ask(sentinel: SentinelProcess, token: str, over: threading.Event, ended: list[tuple[float, str]]) -> None:
    while not over.is_set():
        answer = post(sentinel, token, _BODY)
        ended.append((time.monotonic(), answer.headers["x-sentinel-provider"] if answer.status == 200 else "failed"))


@contextlib.contextmanager
def _provider(port: int) -> Iterator[BaseProcess]:
    """A provider as a process of its own, that can be killed."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_provide, args=(port, ready), daemon=True)
    process.start()
    try:
        assert ready.wait(30), "the provider does not start"
        # Its first answer takes half a second: it counts tokens, too.
        headers = {"authorization": f"Bearer {_KEY}", "content-type": "application/json"}
        assert request(port, "POST", CHAT, json.dumps(_BODY).encode(), headers).status == 200
        yield process
    finally:
        process.kill()
        process.join(10)


def _provide(port: int, ready: Any) -> None:
    Server(OpenAISimulator(_KEY).app, "127.0.0.1", port).start()
    ready.set()
    threading.Event().wait()
