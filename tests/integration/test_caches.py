"""What a process keeps in memory is bounded, however many users there are (docs/scaling.md)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bench.caches import CACHES
from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.openai import OpenAIRequest
from sentinel.error import InvalidType


@pytest.mark.parametrize("name", CACHES)
async def test_a_cache_keeps_its_bound(name: str) -> None:
    """Fed a fifth more users than it may know, it knows as many as it may; the first are forgotten."""
    cache = CACHES[name]()
    for number in range(cache.bound * 6 // 5):
        cache.feed(number)
        assert number % 1000 or cache.kept() <= cache.bound
    assert cache.bound // 2 <= cache.kept() <= cache.bound


@pytest.mark.parametrize("read", [CHAT.read, COMPLETIONS.read])
def test_names_of_models_are_bounded(read: Callable[[bytes], OpenAIRequest]) -> None:
    """Whatever is kept by model cannot be made large by its name."""
    body = {"messages": [], "prompt": "x"}
    assert read(json.dumps({**body, "model": "m" * 256}).encode()).model == "m" * 256
    with pytest.raises(InvalidType, match="'model'"):
        read(json.dumps({**body, "model": "m" * 257}).encode())
