"""Assembles the providers that SENTINEL_CONFIG names, or the one of the environment, into a registry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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

_RELOAD_SECONDS = 30.0
"""A file on a network that hangs is given up."""
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


@dataclass(frozen=True, slots=True)
class _Made:
    """What one file makes, which serves nobody yet. renewed: by provider and command."""

    targets: list[Target] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    connected: list[OpenAIProvider | KeyPool | OpenAISockets] = field(default_factory=list)
    renewed: dict[tuple[str, Sequence[str]], _Renewed] = field(default_factory=dict)


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
        made = self._made(self._config)
        self._adopt(made)
        self.registry = Registry(*made.targets, served=made.served)

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
        await asyncio.gather(*(each.pool.look() for each in self._commands.values()))

    async def reload(self) -> bool:
        """Read the file anew; whether anything has changed. Not to be called while it runs.

        What has begun goes on with what was; connections that rest end by themselves. Raises ConfigError, OSError,
        ValueError: then all stays as it was.
        """
        async with asyncio.timeout(_RELOAD_SECONDS):
            config, made = await asyncio.to_thread(self._read_anew)
        if made is None:
            return False
        self._config = config
        for key in [key for key in self._commands if key not in made.renewed]:
            self._commands.pop(key).stop()
        self._adopt(made)
        if self._commands:
            self._tasks.start(self._take(made), "token commands")
        else:
            self.registry.take(made.targets, made.served)
        return True

    def _read_anew(self) -> tuple[ProviderConfig | None, _Made | None]:
        """The file, and what it makes, if it has changed. Beside the event loop: each context of TLS takes 50 ms."""
        config = load_providers(self._settings)
        return config, None if config == self._config or config is None else self._made(config)

    async def _take(self, made: _Made) -> None:
        """Have them serve once they have their tokens, unless the file has changed again meanwhile."""
        config = self._config
        await self.start()
        if self._config is config:
            self.registry.take(made.targets, made.served)

    def _adopt(self, made: _Made) -> None:
        """Know what is made: its connections, and the tokens that it needs."""
        self._connected.update(made.connected)
        for key, renewed in made.renewed.items():
            self._commands.setdefault(key, renewed).pool = renewed.pool

    async def close(self) -> None:
        """Close all connections."""
        await self._tasks.cancel()
        for each in list(self._connected):
            if not isinstance(each, OpenAISockets):
                await each.close()

    def _made(self, config: ProviderConfig | None) -> _Made:
        """What this file makes. Changes nothing here."""
        made = _Made()
        if config is None:
            made.targets.append(self._only(made))
            return made
        targets = {spec.name: self._target(spec, made) for spec in config.providers}
        specs = {spec.name: spec for spec in config.providers}
        made.targets.extend(targets.values())
        made.served.extend(_served(model, targets, specs) for model in config.models)
        return made

    def _only(self, made: _Made) -> Target:
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
        made.connected.extend((provider, sockets))
        prices, place = Catalog.ours().at(url), Place.of("openai", url)
        return Target("openai", provider, sockets=sockets, prices=prices, place=place)

    def _target(self, spec: ProviderSpec, made: _Made) -> Target:
        make = partial(provider_of, spec, self._settings, has_room=self._requests.makes_room_for_provider)
        renewed = self._commands.get((spec.name, spec.token_command))
        command = renewed.command if renewed else TokenCommand(spec.name, spec.token_command)

        def read_keys() -> list[str]:
            told = [command.token] if command.token else []
            return told or [key_of(source) for source in spec.keys] or [NO_KEY]

        may_change = bool(spec.token_command) or any(source.kind == "file" for source in spec.keys)
        pool = KeyPool(spec.name, make, read_keys, may_change=may_change)
        if spec.token_command:
            made.renewed[spec.name, spec.token_command] = _Renewed(command, pool)
        made.connected.append(pool)
        has_many, first, sockets = len(spec.keys) > 1, read_keys()[0], None
        # A socket has the key that it was made with.
        if spec.type in _WITH_SOCKETS and spec.speaks("other") and not spec.token_command:
            base = doors_of(spec.type, spec.url)[-1].url
            sockets = self._sockets(base, first, spec.connect_timeout_seconds, egress_of(spec, self._settings))
            made.connected.append(sockets)
        return Target(
            spec.name,
            pool,
            sockets=sockets,
            formats=frozenset(spec.formats),
            route=_route(spec, TargetSpec(spec.name)),
            prices=Catalog.ours().at(spec.url),
            pool=pool if has_many else None,
            socket_key=pool.named(first) if has_many else "",
            place=Place.of(system_of(spec.type, spec.preset), spec.url),
        )

    def _sockets(self, url: str, key: str, connect_seconds: float, egress: Egress) -> OpenAISockets:
        return OpenAISockets(
            url,
            key,
            connect_timeout_seconds=connect_seconds,
            ping_seconds=self._settings.stream_keepalive_seconds,
            answers=self._answers,
            egress=egress,
            has_room=self._requests.makes_room_for_provider,
        )


def provider_of(
    spec: ProviderSpec, settings: Settings, key: str, *, has_room: Callable[[], bool] = lambda: True
) -> OpenAIProvider:
    """A provider of the file, to which this key is shown. has_room: whether there may be one connection more."""
    return OpenAIProvider(
        spec.url,
        key,
        connect_timeout_seconds=spec.connect_timeout_seconds,
        idle_timeout_seconds=spec.idle_timeout_seconds,
        keepalive_seconds=spec.keepalive_seconds,
        egress=egress_of(spec, settings),
        has_room=has_room,
        doors=doors_of(spec.type, spec.url, spec.api_version, by_token=bool(spec.token_command)),
    )


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
