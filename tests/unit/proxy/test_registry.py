"""Which targets a model has, and in which order they are tried."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import cycle
from random import Random
from typing import cast

import pytest

from sentinel.error import ModelNotFound
from sentinel.provider_config import ModelSpec
from sentinel.proxy.provider import AiProvider, ProviderPool, SocketProvider
from sentinel.proxy.registry import Registry, Route, Served, Target, all_away, place_of

NOBODY = cast("AiProvider", None)
"""Nothing is sent here."""


def target(name: str, *formats: str, weight: int = 1, model: str | None = None) -> Target:
    return Target(name, NOBODY, formats=frozenset(formats or ("chat",)), route=Route(model, weight))


def served(pattern: str, *targets: Target, fallback: tuple[Target, ...] = ()) -> Served:
    return Served(ModelSpec(pattern, ()), targets, fallback)


def names(registry: Registry, format_name: str, model: str) -> list[str]:
    return [each.name for each in registry.targets(format_name, model)]


def test_the_one_of_the_environment_serves_all() -> None:
    """Whatever the model and the format are."""
    only = Target("openai", NOBODY)
    registry = Registry(only)
    assert registry.targets("anything", "any-model") == registry.targets("other", "") == (only,)
    assert only.speaks("gemini")
    assert only.speaks("images")


def test_a_models_own_entry_comes_before_prefixes() -> None:
    """Then the longest of those that fit, wherever they stand in the file."""
    entries = [served(pattern, target(pattern)) for pattern in ("*", "gpt-4o*", "gpt*", "gpt-4o", "gpt-4o-mini*")]
    registry = Registry(target("a"), target("b"), served=entries)
    expected = {
        "gpt-4o": "gpt-4o",
        "gpt-4o-mini": "gpt-4o-mini*",
        "gpt-4o-mini-2024": "gpt-4o-mini*",
        "gpt-4o-audio": "gpt-4o*",
        "gpt-5": "gpt*",
        "gp": "*",
        "GPT-4o": "*",
    }
    assert {model: names(registry, "chat", model)[0] for model in expected} == expected


def test_only_targets_that_speak_the_format_are_asked() -> None:
    """Those of the fallback as well; formats without a name of their own are `other`."""
    entry = served(
        "m", target("one", "chat", "other"), target("two", "messages"), fallback=(target("three", "chat", "messages"),)
    )
    registry = Registry(target("a"), target("b"), served=[entry])
    assert sorted(names(registry, "chat", "m")) == ["one", "three"]
    assert names(registry, "messages", "m") == ["two", "three"]
    assert names(registry, "images", "m") == names(registry, "speech", "m") == ["one"]


def test_what_nobody_speaks_is_not_found() -> None:
    """It is told in which formats the model is there."""
    entry = served("m", target("one", "messages"), fallback=(target("two", "chat", "messages"),))
    registry = Registry(target("a"), target("b"), served=[entry])
    with pytest.raises(ModelNotFound, match="'m' is not served in this format, but as: chat, messages") as caught:
        registry.targets("gemini", "m")
    assert caught.value.param == "model"


def test_a_model_that_no_entry_names_goes_to_the_only_provider() -> None:
    """Where there are several it does not exist."""
    entry = served("m", target("one"))
    assert names(Registry(target("one"), served=[entry]), "chat", "other-model") == ["one"]
    with pytest.raises(ModelNotFound, match="'other-model' is not served in this format, but as: chat"):
        Registry(target("one"), served=[entry]).targets("responses", "other-model")
    with pytest.raises(ModelNotFound, match=r"'x{96}' does not exist"):
        Registry(target("one"), target("two"), served=[entry]).targets("chat", "x" * 500)


def test_what_has_no_model_goes_to_the_first_that_takes_such() -> None:
    """In the order of the file, whatever `*` says."""
    entry = served("*", target("one"))
    registry = Registry(target("one"), target("two", "chat", "other"), target("three", "other"), served=[entry])
    assert names(registry, "other", "") == names(registry, "files", "") == ["two"]
    with pytest.raises(ModelNotFound, match="without a model"):
        Registry(target("one"), target("two")).targets("other", "")


def test_weights_share_requests_out() -> None:
    """Nine times in ten the one of weight 9 is first; nobody is left out; fallbacks stay behind, in their order."""
    fallback = (target("third", weight=1000), target("fourth"))
    entry = served("m", target("light", weight=1), target("heavy", weight=9), fallback=fallback)
    registry = Registry(target("a"), target("b"), served=[entry], chance=Random(7).random)
    orders = Counter(tuple(names(registry, "chat", "m")) for _ in range(10_000))
    assert set(orders) == {("heavy", "light", "third", "fourth"), ("light", "heavy", "third", "fourth")}
    assert 0.88 < orders["heavy", "light", "third", "fourth"] / 10_000 < 0.92


def test_weights_share_what_is_left_as_well() -> None:
    """Whoever is first, the others are second by their weights."""
    entry = served("m", target("a", weight=6), target("b", weight=3), target("c", weight=1))
    registry = Registry(target("a"), target("b"), served=[entry], chance=Random(7).random)
    orders = [names(registry, "chat", "m") for _ in range(10_000)]
    seconds = Counter(second for first, second, _ in orders if first == "a")
    assert 0.72 < seconds["b"] / seconds.total() < 0.78


@pytest.mark.parametrize("chances", [[0.0], [1.0 - 2**-53], [0.0, 0.5]])
def test_any_chance_gives_an_order(chances: list[float]) -> None:
    """The least and the largest of them, too."""
    entry = served("m", target("a", weight=1000), target("b"), Target("c", NOBODY))
    registry = Registry(target("a"), target("b"), served=[entry], chance=cycle(chances).__next__)
    assert sorted(names(registry, "chat", "m")) == ["a", "b", "c"]


def test_new_targets_serve_from_now_on() -> None:
    """What is taken replaces all."""
    registry = Registry(target("a"), target("b"), served=[served("m", target("a"))])
    registry.take([target("c")], [served("m*", target("c"))])
    assert names(registry, "chat", "m") == names(registry, "chat", "z") == ["c"]
    registry.take([Target("openai", NOBODY)])
    assert names(registry, "gemini", "m") == ["openai"]


def test_second_attempts_are_a_share_of_first_ones() -> None:
    """A hundred at first, for all that is in flight; then one for five requests, and never more than a thousand."""
    registry = Registry(target("a"), target("b"))
    assert [registry.may_retry() for _ in range(101)] == [True] * 100 + [False]
    for _ in range(11):
        registry.earned()
    assert [registry.may_retry() for _ in range(3)] == [True, True, False]
    for _ in range(10_000):
        registry.earned()
    assert [registry.may_retry() for _ in range(1_001)].count(True) == 1_000


def test_a_route_is_full_where_as_many_are_there_as_may_be() -> None:
    """Without a bound it never is."""
    route, bounded = Route(), Route(concurrency=2)
    route.in_flight = bounded.in_flight = 2
    assert (route.is_full, bounded.is_full) == (False, True)
    bounded.in_flight = 1
    assert not bounded.is_full


def test_what_is_refused_for_one_thing_says_nothing_of_others() -> None:
    """A route has a breaker for each, the newest thousand of them: a client may make up any name."""
    route = Route()
    assert route.breaker("chat a") is route.breaker("chat a")
    route.breaker("chat a").failed(100.0, 30.0)
    route.breaker("chat b")
    assert (route.left_alone(100.0), route.left_alone(130.0)) == (1, 0)
    for number in range(1_000):
        route.breaker(f"chat {number}")
    assert route.left_alone(100.0) == 0


def test_a_session_goes_to_the_first_that_has_sockets() -> None:
    """Of the model's targets, or of all that speak its format; the one that has an object is asked in any case."""
    sockets = cast("SocketProvider", object())
    plain, other = target("plain", "responses", "other"), target("other", "chat")
    first, second = (replace(target(name, "responses", "other"), sockets=sockets) for name in ("first", "second"))
    both = served("gpt*", plain, fallback=(second,))
    registry = Registry(other, plain, first, second, served=[both], home="first")
    assert registry.with_sockets("responses", "").name == "first"
    assert registry.with_sockets("realtime", "gpt-realtime").name == "second"
    assert registry.with_sockets("realtime", "", "plain").name == "plain"
    assert Registry(other, plain).with_sockets("responses", "").name == "plain"
    with pytest.raises(ModelNotFound, match="without a model"):
        Registry(other, target("more")).with_sockets("responses", "")


def test_who_finds_all_away_comes_again_when_the_first_is_back() -> None:
    """In a second at least."""
    assert all_away([30.0, 4.5]).retry_after_seconds == 4.5
    assert all_away([0.1]).retry_after_seconds == 1.0


class Pooled:
    """A provider with several keys, which says whose it would be."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def of(self, key: str) -> AiProvider:
        self.asked.append(key)
        return NOBODY


def test_a_place_may_be_one_of_several_keys() -> None:
    """Of one provider as well; a place without one is older, and one of a provider without several says nothing."""
    pool = Pooled()
    keyed, plain = replace(target("a"), pool=cast("ProviderPool", pool)), target("b")
    assert place_of(keyed, "k1") == "a#k1"
    assert Registry(keyed).is_many
    assert not Registry(plain).is_many
    registry = Registry(keyed, plain)
    for place, name in (("a#k1", "a"), ("a", "a"), ("b#k2", "b"), ("b", "b")):
        assert [each.name for each in registry.targets("chat", "", place)] == [name]
    assert pool.asked == ["k1", ""]
