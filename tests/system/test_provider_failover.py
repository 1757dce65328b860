"""A provider of two is killed under load: who has not begun is served by the other one, and nobody is billed twice."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from tests.support.client import Answer
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import post
from tests.support.waiting import wait_until

CALLERS = 16
LOAD_SECONDS = 4.0
KILLED_AFTER_SECONDS = 1.5
FILE = """
[providers.first]
type = "openai"
url = "{first}/v1"
api_key = "env:FIRST_KEY"
[providers.second]
type = "openai"
url = "{second}/v1"
api_key = "env:SECOND_KEY"
[models."*"]
targets = [{{ provider = "first" }}]
fallback = [{{ provider = "second" }}]
"""


class Load:
    """Callers who ask one request after the other. answers: each with when it was asked."""

    def __init__(self, sentinel: SentinelProcess, token: str) -> None:
        self._sentinel = sentinel
        self._token = token
        self._ended = threading.Event()
        self.answers: list[tuple[float, Answer]] = []

    def call(self, number: int) -> None:
        prompt = "[[tokens=6 delay=0.01]]"
        body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}
        if number % 2:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        while not self._ended.is_set():
            asked = time.monotonic()
            self.answers.append((asked, post(self._sentinel, self._token, body)))

    def end(self) -> None:
        self._ended.set()


def is_whole(answer: Answer) -> bool:
    """Whether it is a whole answer, or a stream to its end."""
    if answer.headers["content-type"].startswith("application/json"):
        return answer.status == 200
    return answer.status == 200 and answer.events[-1] == "[DONE]"


def has_begun(answer: Answer) -> bool:
    """Whether a stream that broke had brought anything before."""
    return answer.status == 200 and b'"content":"' in answer.body


def output_of(answer: Answer) -> int:
    """What was generated, as the provider told it."""
    if answer.headers["content-type"].startswith("application/json"):
        return int(answer.json["usage"]["completion_tokens"])
    return sum(e["usage"]["completion_tokens"] for e in answer.events if e != "[DONE]" and e.get("usage"))


def test_a_provider_dies_under_load(stack: Stack, tmp_path: Path) -> None:
    """Only streams that had begun break; within a second nobody tries it any more; the books are right."""
    simulators = OpenAISimulator(), OpenAISimulator()
    first, second = (Server(each.app, "127.0.0.1", 0).start() for each in simulators)
    config = tmp_path / "sentinel.toml"
    config.write_text(FILE.format(first=first.url, second=second.url))
    keys = {"FIRST_KEY": simulators[0].api_key, "SECOND_KEY": simulators[1].api_key}
    sentinel = stack.sentinel({"SENTINEL_CONFIG": str(config), **keys})
    _, token = stack.user("failover@corp.test")
    load = Load(sentinel, token)
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(load.call, number) for number in range(CALLERS)]
            begun = time.monotonic()
            wait_until(lambda: time.monotonic() > begun + KILLED_AFTER_SECONDS, "some load")
            first.stop()
            killed = time.monotonic()
            wait_until(lambda: time.monotonic() > begun + LOAD_SECONDS, "more load")
            load.end()
            for call in calls:
                call.result(30)
    finally:
        first.stop()
        second.stop()
    broken = [answer for _, answer in load.answers if not is_whole(answer)]
    assert all(has_begun(answer) for answer in broken), [answer for answer in broken if not has_begun(answer)][:1]
    assert len(broken) <= CALLERS
    later = [answer for asked, answer in load.answers if asked > killed + 1]
    assert later
    assert all(is_whole(answer) and answer.headers["x-sentinel-provider"] == "second" for answer in later)
    # A half-open breaker lets one request try again now and then; it is served all the same.
    wait_until(lambda: len(_lines(sentinel)) == len(load.answers), "the log")
    tried = [line for line in _lines(sentinel)[-len(later) // 2 :] if len(line["attempts"]) > 1]
    assert len(tried) <= 2
    _the_books_are_right(stack, load, broken)


def _lines(sentinel: SentinelProcess) -> list[dict[str, Any]]:
    return [line for line in sentinel.log() if line.get("event") == "request" and line["user_id"] == "failover"]


def _the_books_are_right(stack: Stack, load: Load, broken: list[Answer]) -> None:
    """Each request once, and each whole answer's tokens; what broke costs no more than what it had delivered."""
    requests = len(load.answers)
    used = stack.simulators.zion.used
    wait_until(lambda: used("failover@corp.test")["ai_requests"] >= requests, "usage")
    whole = sum(output_of(answer) for _, answer in load.answers if is_whole(answer))
    booked = used("failover@corp.test")
    assert booked["ai_requests"] == requests
    assert whole <= booked["ai_output_tokens"] <= whole + sum(_delivered(answer) for answer in broken)


def _delivered(answer: Answer) -> int:
    """No more tokens than a broken stream had chunks and words."""
    return sum(len(json.dumps(event)) for event in answer.events if event != "[DONE]")
