"""Keys of a pool that are of several projects, or of one: what one of them has made is asked for so that it is found.

About: `proxy/key_pool.py`, `proxy/registry.py`, `cache/owners.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs
from uuid import uuid4

import pytest

from sentinel.dev.exchange import Exchange
from sentinel.dev.server import Server
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import RESPONSES, post, send
from tests.support.waiting import wait_until

STORES = "/v1/vector_stores"
ONE, TWO, NEW = "key-of-one-0123456789", "key-of-two-0123456789", "new-key-of-two-012345"
ASK = {"model": "gpt-4o-mini", "input": "hi"}
USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


class Projects:
    """A provider of which no key finds what is another project's. of: the project of each key.

    limited: keys that get 429. made: the key of whatever was made. missed: how often something was asked for with a key
    of another project.
    """

    def __init__(self) -> None:
        self.of = {ONE: "one", TWO: "two", NEW: "two"}
        self.keys: list[str] = []
        self.limited: set[str] = set()
        self.missed = 0
        self.made: dict[str, str] = {}
        self._server = Server(self._app)

    @property
    def url(self) -> str:
        return f"{self._server.url}/v1"

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        if await exchange.read():
            key = exchange.headers["authorization"].removeprefix("Bearer ")
            self.keys.append(key)
            await exchange.answer_json(*self._told(exchange, key))

    def _told(self, exchange: Exchange, key: str) -> tuple[int, dict[str, Any]]:
        if key in self.limited:
            return 429, {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}
        family, *named = exchange.path.split("/")[2:]
        body = exchange.record().body if exchange.raw else {}
        named = [
            *named[:1],
            *parse_qs(exchange.query).get("after", ()),
            *filter(None, [body.get("previous_response_id")]),
        ]
        if any(self.of[self.made.get(each, key)] != self.of[key] for each in named):
            self.missed += 1
            return 404, {"error": {"message": "No such object", "type": "invalid_request_error"}}
        status = "queued" if body.get("background") else "completed"
        id_ = named[0] if named else ""
        told: dict[str, Any] = {"id": id_, "object": family, "status": status, "output": [], "usage": USAGE}
        if exchange.method == "POST":
            told["id"] = f"{family}_{uuid4().hex}"
            self.made[told["id"]] = key
        elif len(exchange.path.split("/")) == 3:
            return 200, {"object": "list", "data": [], "has_more": False}
        return 200, told

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


@pytest.fixture
def there() -> Iterator[Projects]:
    with Projects() as there:
        yield there


class Pool:
    """A Sentinel with such a provider, and keys in files."""

    def __init__(self, stack: Stack, folder: Path, there: Projects, *keys: str) -> None:
        self._files = [folder / f"key{number}" for number in range(len(keys))]
        for file, key in zip(self._files, keys, strict=True):
            file.write_text(key)
        sources = ", ".join(f'"file:{file}"' for file in self._files)
        config = folder / "sentinel.toml"
        config.write_text(f'[providers.pool]\ntype = "openai"\nurl = "{there.url}"\napi_key = [{sources}]\n')
        self.sentinel: SentinelProcess = stack.sentinel(SENTINEL_CONFIG=str(config))

    def change(self, number: int, key: str) -> None:
        self._files[number].write_text(key)


def stores(there: Projects, sentinel: SentinelProcess, token: str) -> dict[str, str]:
    """One for each key, by the key that it was made with."""

    def found() -> dict[str, str]:
        id_ = post(sentinel, token, {"name": "x"}, STORES).json["id"]
        return {there.made[id_]: id_}

    made = dict[str, str]()
    for _ in range(4):
        made |= found()
    return made


def test_with_the_key_that_made_it(stack: Stack, tmp_path: Path, there: Projects) -> None:
    """Whatever names it: a path, a body, a page; and what goes on is followed, and billed."""
    email = "projects@corp.test"
    _, token = stack.user(email)
    sentinel = Pool(stack, tmp_path, there, ONE, TWO).sentinel
    for id_ in stores(there, sentinel, token).values():
        for path in (f"{STORES}/{id_}", f"{STORES}/{id_}/files", f"{STORES}?after={id_}"):
            assert send(sentinel, "GET", path, token).status == 200
    begun = [post(sentinel, token, {**ASK, "background": True}, RESPONSES).json["id"] for _ in range(4)]
    wait_until(lambda: stack.simulators.zion.used(email)["ai_output_tokens"] == 4 * 3, "usage of what went on")
    for id_ in begun:
        assert post(sentinel, token, {**ASK, "previous_response_id": id_}, RESPONSES).status == 200
    assert there.missed == 0
    assert set(there.keys) == {ONE, TWO}


@pytest.mark.parametrize("projects", [1, 2])
def test_while_that_key_rests(stack: Stack, tmp_path: Path, there: Projects, projects: int, token: str) -> None:
    """Another one serves, if it can."""
    if projects == 1:
        there.of[TWO] = "one"
    sentinel = Pool(stack, tmp_path, there, ONE, TWO).sentinel
    first = stores(there, sentinel, token)[ONE]
    there.limited.add(ONE)
    for _ in range(2):
        assert post(sentinel, token, ASK, RESPONSES).status == 200
    there.limited.clear()
    del there.keys[:]
    assert send(sentinel, "GET", f"{STORES}/{first}", token).status == 200
    assert there.keys == ([TWO] if projects == 1 else [TWO, ONE])


def test_a_key_that_is_gone(stack: Stack, tmp_path: Path, there: Projects, token: str) -> None:
    """Any other may be of its project."""
    pool = Pool(stack, tmp_path, there, ONE, TWO)
    second = stores(there, pool.sentinel, token)[TWO]
    pool.change(1, NEW)

    def is_new() -> bool:
        return post(pool.sentinel, token, ASK, RESPONSES).status == 200 and there.keys[-1] == NEW

    wait_until(is_new, "the new key")
    for _ in range(3):
        assert send(pool.sentinel, "GET", f"{STORES}/{second}", token).status == 200
    assert there.missed > 0


def test_records_from_before_there_were_several(stack: Stack, tmp_path: Path, there: Projects, token: str) -> None:
    """They tell no key; and back again what tells one is found by the only one."""
    before = Pool(stack, tmp_path, there, TWO).sentinel
    old = stores(there, before, token)[TWO]
    before.stop()
    both = Pool(stack, tmp_path, there, ONE, TWO).sentinel
    for _ in range(3):
        assert send(both, "GET", f"{STORES}/{old}", token).status == 200
    second = stores(there, both, token)[TWO]
    both.stop()
    after = Pool(stack, tmp_path, there, NEW).sentinel
    assert send(after, "GET", f"{STORES}/{second}", token).status == 200
