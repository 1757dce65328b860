"""Several keys of one provider: whose turn it is, who rests, and what becomes of keys that change."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sentinel.proxy.key_pool import LIMITED_SECONDS, LOOK_SECONDS, REFUSED_SECONDS, KeyPool
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.provider import PassedStream, ProviderAnswer, ProviderRequest, Room, StreamedBody


class Provider:
    """Answers with the status that is set for its key."""

    def __init__(self, key: str, statuses: dict[str, int]) -> None:
        self.key = key
        self.connections = 1
        self.closed = False
        self._statuses = statuses

    async def pass_on(self, request: ProviderRequest, room: Room) -> PassedStream:
        return cast("PassedStream", await self.get("", ""))

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        return cast("ProviderAnswer", Said(self.key, self._statuses.get(self.key, 200)))

    async def close(self) -> None:
        self.closed = True


class Said:
    def __init__(self, key: str, status: int) -> None:
        self.key, self.status = key, status

    def close(self) -> None:
        self.key = "closed"


class Pool:
    """A pool, with a clock and keys that a test turns."""

    def __init__(self, *keys: str, may_change: bool = True) -> None:
        self.keys: list[str] | None = list(keys)
        self.now = 100.0
        self.statuses: dict[str, int] = {}
        self.made: list[Provider] = []
        self.pool = KeyPool("p", self._make, self._read, may_change=may_change, clock=lambda: self.now)

    def _make(self, key: str) -> OpenAIProvider:
        self.made.append(Provider(key, self.statuses))
        return cast("OpenAIProvider", self.made[-1])

    def _read(self) -> list[str]:
        if self.keys is None:
            raise ValueError("the file cannot be read")
        return self.keys

    def of(self, key: str, body: bytes | StreamedBody = b"") -> tuple[str, str]:
        """Whose answer a request gets that names what this key has made, and the name of that key."""
        request = ProviderRequest(b"/files", b"", body)
        answer: Any = asyncio.run(self.pool.of(self.pool.named(key)).pass_on(request, cast("Room", None)))
        return answer.key, request.key

    def used(self, count: int) -> str:
        """The keys of so many requests, one after the other."""
        answers: list[Any] = [asyncio.run(self.pool.get("/models", "r")) for _ in range(count)]
        return "".join(answer.key for answer in answers)


def test_keys_take_turns() -> None:
    """Each as often as any other."""
    assert Pool("a", "b", "c").used(7) == "abcabca"
    assert Pool("a").used(3) == "aaa"


@pytest.mark.parametrize(
    ("status", "seconds"), [(401, REFUSED_SECONDS), (403, REFUSED_SECONDS), (429, LIMITED_SECONDS)]
)
def test_a_key_that_is_refused_or_limited_rests(status: int, seconds: float) -> None:
    """The others go on, until it may be tried again."""
    pool = Pool("a", "b", "c")
    pool.statuses["b"] = status
    assert pool.used(5) == "abcac"
    assert pool.pool.has_another()
    pool.now += seconds
    pool.statuses.clear()
    assert pool.used(3) == "abc"


def test_where_all_rest_the_one_that_has_for_longest_is_used() -> None:
    """Somebody must find out that they are well again."""
    pool = Pool("a", "b")
    pool.statuses.update(a=401, b=429)
    assert pool.used(4) == "abbb"
    assert not pool.pool.has_another()


def test_keys_that_have_changed_serve_from_then_on() -> None:
    """Those that stay keep their connections; those that are gone are there while they have any."""
    pool = Pool("a", "b")
    pool.keys = ["b", "c"]
    assert pool.used(1) == "a"
    pool.now += LOOK_SECONDS
    assert pool.used(3) == "bcb"
    assert [provider.key for provider in pool.made] == ["a", "b", "c"]
    assert pool.pool.connections == 3
    pool.made[0].connections = 0
    pool.now += LOOK_SECONDS
    assert pool.used(1) == "c"
    assert pool.pool.connections == 2
    asyncio.run(pool.pool.close())
    assert [provider.closed for provider in pool.made] == [False, True, True]


def test_keys_that_cannot_be_read_stay_as_they_were() -> None:
    """Until they can."""
    pool = Pool("a", "b")
    pool.keys = None
    pool.now += LOOK_SECONDS
    assert pool.used(2) == "ab"
    pool.keys = ["c"]
    pool.now += LOOK_SECONDS
    assert pool.used(2) == "cc"


def test_the_same_key_in_two_places_is_one() -> None:
    """It is no change each time that somebody looks."""
    pool = Pool("a", "a", "b")
    for _ in range(3):
        pool.now += LOOK_SECONDS
        assert pool.used(2) == "ab"
    assert [provider.key for provider in pool.made] == ["a", "b"]


def test_what_cannot_change_is_not_looked_at() -> None:
    """Keys of the environment are those of the start."""
    pool = Pool("a", may_change=False)
    pool.keys = ["b"]
    pool.now += 10 * LOOK_SECONDS
    assert pool.used(1) == "a"


def test_what_a_key_has_made_is_asked_for_with_it() -> None:
    """And takes nobody's turn."""
    pool = Pool("a", "b", "c")
    assert [pool.of("b") for _ in range(3)] == [("b", pool.pool.named("b"))] * 3
    assert pool.used(3) == "abc"


def test_what_a_key_has_made_that_rests() -> None:
    """Another one is asked, and it once more where that does not find it; what can be sent once is sent with it."""
    pool = Pool("a", "b", "c")
    pool.statuses.update(b=429)
    assert pool.used(3) == "abc"
    assert pool.of("b")[0] == "a"
    pool.statuses.update(c=404)
    assert pool.of("b")[0] == "b"
    assert pool.of("b", cast("StreamedBody", object()))[0] == "b"


@pytest.mark.parametrize("status", [400, 404])
def test_what_a_key_has_made_that_is_there_no_more(status: int) -> None:
    """All are asked, until one finds it; else the last one has said so."""
    pool = Pool("a", "b", "c")
    pool.statuses.update(a=status, b=status)
    assert pool.of("gone") == ("c", pool.pool.named("c"))
    pool.statuses.update(c=status)
    assert pool.of("gone")[0] in "abc"
    assert pool.of("gone", cast("StreamedBody", object()))[0] in "abc"


def test_names_of_keys() -> None:
    """The same whatever the order, others for others, and of no key can anything be seen in them."""
    one, other = Pool("sk-a", "sk-b"), Pool("sk-b", "sk-a")
    assert one.pool.named("sk-a") == other.pool.named("sk-a") != one.pool.named("sk-b")
    assert len(one.pool.named("sk-a")) == len(one.pool.named("sk-" + "x" * 200)) == 8
