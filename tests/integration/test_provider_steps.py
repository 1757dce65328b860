"""To read the file of providers anew, or a key, holds up nobody: what shows our keys over TLS is made beside the loop.

About: `providers.py`, `proxy/key_pool.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sentinel.config import ConfigError, Settings
from sentinel.memory_budget import MemoryBudget
from sentinel.providers import Providers
from sentinel.proxy.key_pool import KeyPool
from tests.support.strangers import Authority
from tests.support.turns import TimedSelector

MOST_SECONDS = 0.005
"""DESIGN P6. It was 50 ms and more for each provider to make it, and 2 ms to free it."""
ROUNDS = 4


class House:
    """Some providers of a file, over TLS, with a key in another one."""

    def __init__(self, folder: Path) -> None:
        self._file, self._key = folder / "sentinel.toml", folder / "key"
        self.authority = Authority(folder).file
        self._number = 0
        self.change()
        settings = Settings(zion_api_url="http://127.0.0.1:1", zion_api_key="k", sentinel_config=str(self._file))
        self.providers = Providers(settings, MemoryBudget(), MemoryBudget())

    def change(self) -> None:
        """Something else in the file, and another key."""
        self._number += 1
        self._key.write_text(f"sk-{self._number:048}")
        self._file.write_text(
            "".join(
                f'[providers.p{number}]\ntype = "openai"\nurl = "https://127.0.0.1:1/v1"\n'
                f'api_key = "file:{self._key}"\nca_file = "{self.authority}"\nidle_timeout_seconds = {self._number}\n'
                for number in range(5)
            )
        )

    @property
    def pool(self) -> KeyPool:
        """Of the first provider that serves."""
        pool = self.providers.registry.providers[0].provider
        assert isinstance(pool, KeyPool)
        return pool


async def reload(house: House) -> None:
    """As at SIGHUP."""
    before = house.pool
    house.change()
    assert await house.providers.reload()
    assert house.pool is not before


async def look(house: House) -> None:
    """As when a request comes after a while."""
    house.change()
    await house.pool.look()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("work", [reload, look], ids=lambda one: one.__name__)
def test_no_turn_is_long(tmp_path: Path, work: Callable[[House], Awaitable[None]]) -> None:
    """However many providers, and connections over TLS, there are."""
    selector = TimedSelector()

    async def best() -> float:
        found, house = [], House(tmp_path)
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
            selector.begin()
            await work(house)
            # This turn counts, too.
            await asyncio.sleep(0)
            found.append(selector.longest)
        await house.providers.close()
        return min(found)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(best()) < MOST_SECONDS


async def test_authorities_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    """Neither at a reload, which says so, nor where a key has changed."""
    house = House(tmp_path)
    before = house.pool
    house.authority.write_text("no certificate")
    house.change()
    with pytest.raises(ConfigError) as faulty:
        await house.providers.reload()
    assert "ca_file" in str(faulty.value)
    connections = before.connections
    await before.look()
    assert house.pool is before
    assert before.connections == connections
    await house.providers.close()
