"""Assembles the providers that SENTINEL_CONFIG names, or the one of the environment, into a registry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from weakref import WeakSet

from sentinel.config import Settings, key_of, load_providers
from sentinel.egress import Egress, TlsFiles, parse_proxy
from sentinel.memory_budget import MemoryBudget
from sentinel.prices.catalog import Catalog, OwnPrice
from sentinel.prices.rates import Price
from sentinel.provider_config import ModelSpec, ProviderConfig, ProviderSpec, TargetSpec
from sentinel.provider_presets import system_of
from sentinel.proxy.doors import doors_of
from sentinel.proxy.key_pool import KeyPool
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.openai_socket import OpenAISockets
from sentinel.proxy.registry import Registry, Route, Served, Target
from sentinel.proxy.token_command import TokenCommand
from sentinel.proxy.trace import Place
from sentinel.tasks import Tasks

_WITH_SOCKETS = ("openai", "azure", "compatible")
NO_KEY = "none"
"""What servers of one's own are shown that want a key and look at none."""


class _Renewed:
    """A token that a command prints, and the keys that it stands in for. task: renews it, None before the first."""

    def __init__(self, command: TokenCommand, pool: KeyPool) -> None:
        self.command = command
        self.pool = pool
        self.task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Nobody needs it any more."""
        if self.task is not None:
            self.task.cancel()


class Providers:
    """All providers of a process. requests, answers: what bounds their connections, and what they hold of messages.

    Raises ConfigError for a file that is wrong.
    """

    def __init__(self, settings: Settings, requests: MemoryBudget, answers: MemoryBudget) -> None:
        self._settings = settings
        self._requests = requests
        self._answers = answers
        self._config = load_providers(settings)
        # What is retired goes with the last exchange that it serves.
        self._connected: WeakSet[OpenAIProvider | KeyPool | OpenAISockets] = WeakSet()
        self._commands: dict[tuple[str, Sequence[str]], _Renewed] = {}
        self._tasks = Tasks()
        targets, served = self._made(self._config)
        self.registry = Registry(*targets, served=served)

    @property
    def connections(self) -> int:
        """How many there are."""
        return sum(each.connections for each in self._connected)

    async def start(self) -> None:
        """Have the first tokens of commands, and renew them from now on."""
        new = [each for each in self._commands.values() if each.task is None]
        await asyncio.gather(*(each.command.refresh() for each in new))
        for each in new:
            each.task = self._tasks.keep(each.command.run, f"token of {each.pool.name}")
        for each in self._commands.values():
            each.pool.look()

    def reload(self) -> bool:
        """Read the file anew; whether anything has changed. Raises ConfigError, and all stays as it was.

        What has begun goes on with what was; connections that rest end by themselves.
        """
        config = load_providers(self._settings)
        if config == self._config or config is None:
            return False
        targets, served = self._made(config)
        self._config = config
        wanted = {(spec.name, spec.token_command) for spec in config.providers}
        for key in [key for key in self._commands if key not in wanted]:
            self._commands.pop(key).stop()
        if self._commands:
            self._tasks.start(self._take(config, targets, served), "token commands")
        else:
            self.registry.take(targets, served)
        return True

    async def _take(self, config: ProviderConfig, targets: Sequence[Target], served: Sequence[Served]) -> None:
        """Have them serve once they have their tokens, unless the file has changed again meanwhile."""
        await self.start()
        if self._config is config:
            self.registry.take(targets, served)

    async def close(self) -> None:
        """Close all connections."""
        await self._tasks.cancel()
        for each in list(self._connected):
            if not isinstance(each, OpenAISockets):
                await each.close()

    def _made(self, config: ProviderConfig | None) -> tuple[list[Target], list[Served]]:
        if config is None:
            return [self._only()], []
        targets = {spec.name: self._target(spec) for spec in config.providers}
        specs = {spec.name: spec for spec in config.providers}
        return list(targets.values()), [_served(model, targets, specs) for model in config.models]

    def _only(self) -> Target:
        """The one of the environment, for every model."""
        settings = self._settings
        assert settings.openai_api_key is not None
        key, url = settings.openai_api_key.get_secret_value(), settings.openai_api_url
        provider = OpenAIProvider(
            url,
            key,
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            idle_timeout_seconds=settings.upstream_idle_timeout_seconds,
            keepalive_seconds=settings.upstream_keepalive_seconds,
            egress=settings.provider_egress,
            has_room=self._requests.makes_room_for_provider,
        )
        sockets = self._sockets(url, key, settings.upstream_connect_timeout_seconds, settings.provider_egress)
        self._connected.add(provider)
        prices, place = Catalog.ours().at(url), Place.of("openai", url)
        return Target("openai", provider, sockets=sockets, prices=prices, place=place)

    def _target(self, spec: ProviderSpec) -> Target:
        egress = egress_of(spec, self._settings)
        make = partial(
            OpenAIProvider,
            spec.url,
            connect_timeout_seconds=spec.connect_timeout_seconds,
            idle_timeout_seconds=spec.idle_timeout_seconds,
            keepalive_seconds=spec.keepalive_seconds,
            egress=egress,
            has_room=self._requests.makes_room_for_provider,
            doors=doors_of(spec.type, spec.url, spec.api_version, by_token=bool(spec.token_command)),
        )
        renewed = self._commands.get((spec.name, spec.token_command))
        command = renewed.command if renewed else TokenCommand(spec.name, spec.token_command)

        def read_keys() -> list[str]:
            told = [command.token] if command.token else []
            return told or [key_of(source) for source in spec.keys] or [NO_KEY]

        may_change = bool(spec.token_command) or any(source.kind == "file" for source in spec.keys)
        pool = KeyPool(spec.name, make, read_keys, may_change=may_change)
        if renewed is not None:
            renewed.pool = pool
        elif spec.token_command:
            self._commands[spec.name, spec.token_command] = _Renewed(command, pool)
        self._connected.add(pool)
        sockets = None
        # A socket has the key that it was made with.
        if spec.type in _WITH_SOCKETS and spec.speaks("other") and not spec.token_command:
            base = doors_of(spec.type, spec.url)[-1].url
            sockets = self._sockets(base, read_keys()[0], spec.connect_timeout_seconds, egress)
        return Target(
            spec.name,
            pool,
            sockets=sockets,
            formats=frozenset(spec.formats),
            route=_route(spec, TargetSpec(spec.name)),
            prices=Catalog.ours().at(spec.url),
            place=Place.of(system_of(spec.type, spec.preset), spec.url),
        )

    def _sockets(self, url: str, key: str, connect_seconds: float, egress: Egress) -> OpenAISockets:
        sockets = OpenAISockets(
            url,
            key,
            connect_timeout_seconds=connect_seconds,
            ping_seconds=self._settings.stream_keepalive_seconds,
            answers=self._answers,
            egress=egress,
            has_room=self._requests.makes_room_for_provider,
        )
        self._connected.add(sockets)
        return sockets


def egress_of(spec: ProviderSpec, settings: Settings) -> Egress:
    """How a provider of the file is reached: by its own proxy, else by the one that is for all."""
    tls = TlsFiles(spec.ca_file)
    return settings.egress_to(spec.url, tls) if spec.proxy is None else Egress(parse_proxy(spec.proxy), tls)


def _served(model: ModelSpec, targets: dict[str, Target], specs: dict[str, ProviderSpec]) -> Served:
    own = None if model.price is None else OwnPrice(Price(**model.price))

    def made(target: TargetSpec) -> Target:
        base = targets[target.provider]
        route = _route(specs[target.provider], target, model.pattern)
        return replace(base, route=route, prices=own or base.prices)

    return Served(model, tuple(map(made, model.targets)), tuple(map(made, model.fallback)))


def _route(spec: ProviderSpec, target: TargetSpec, pattern: str = "") -> Route:
    return Route(
        target.model,
        target.weight,
        target.concurrency,
        spec.max_tokens_field,
        stream_usage=spec.stream_usage,
        renames_maximum=spec.renames_maximum,
        name=f"{spec.name} {pattern} {target.model or ''}",
    )
