"""Which model serves a request that names a tier (`endpoints/native.py`).

The tiers are the governance's word: asked for once at a time, kept in memory and in Redis for TIER_CONFIG_TTL_SECONDS;
while the governance is away the last word counts. A conversation stays with its model and its tier, as long as that
model is well and no higher tier is asked for. It belongs to its user: two users may give theirs the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.error import InvalidType, ModelNotAllowed, RedisUnavailable, ServiceUnavailable, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Governance
from sentinel.governance.tiers import TierConfig, TierHealth, TierModel, higher, pick
from sentinel.observability.logs import log_name

log = structlog.get_logger()


class Choice(Struct, frozen=True, gc=False):
    """What was chosen. tier: the one in force, which a conversation may hold above the one that was asked for."""

    model: TierModel
    tier: str


class _Session(Struct, frozen=True):
    provider: str
    model: str
    tier: str


class TierRouter:
    """Of one process. session_seconds: how long a conversation is remembered after its last request.

    config_seconds: how long the tiers are not asked for again. clock: in seconds; chance: 0 to 1.
    """

    def __init__(
        self,
        store: Store,
        governance: Governance,
        *,
        session_seconds: float,
        config_seconds: float,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._governance = governance
        self._session_ms = round(session_seconds * 1000)
        self._config_seconds = config_seconds
        self._clock, self._chance = clock, chance
        self._health = TierHealth()
        self._config: TierConfig | None = None
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    async def choose(self, user: AuthenticatedUser, tier: str, conversation: str | None) -> Choice:
        """The model for a request.

        Raises InvalidType where the tier has none, ModelNotAllowed where it has none of the user's plan,
        ServiceUnavailable.
        """
        config = _of_plan(await self._tiers(), user)
        if conversation is None:
            return Choice(self._pick(config, tier, ""), tier)
        name = keys.session(user.id, conversation)
        session = await self._session(name)
        if session is not None:
            tier = higher(tier, session.tier)
            kept = TierModel(session.provider, session.model)
            if tier == session.tier and self._is_well(kept) and kept.model in _names(config, tier):
                return Choice(kept, tier)
        model = self._pick(config, tier, "" if session is None else session.provider)
        return await self._keep(name, Choice(model, tier), user, is_new=session is None)

    def another(self, choice: Choice, user: AuthenticatedUser) -> Choice | None:
        """Another model of the same tier that is well, after this one has failed; None where there is none."""
        config = _of_plan(self._config or {}, user)
        others = [m for m in self._well(config, choice.tier) if m.model != choice.model.model]
        return Choice(pick(others, self._chance), choice.tier) if others else None

    def failed(self, choice: Choice) -> None:
        """Its provider did, and not by the client's fault."""
        self._health.failed(choice.model, self._clock())

    def served(self, choice: Choice) -> None:
        """Its provider has answered."""
        self._health.served(choice.model)

    def _pick(self, config: TierConfig, tier: str, provider: str) -> TierModel:
        if not config.get(tier):
            if (self._config or {}).get(tier):
                raise ModelNotAllowed(f"Your plan does not have any model of the tier '{tier}'.", param="tier")
            raise InvalidType(f"No models are configured for the tier '{tier}'.", param="tier")
        well = self._well(config, tier)
        if not well:
            seconds = min(self._health.rests_until(model) for model in config[tier]) - self._clock()
            raise ServiceUnavailable(
                f"All models of the tier '{tier}' have failed lately. Please try again later.",
                retry_after_seconds=seconds,
            )
        return pick([model for model in well if model.provider == provider] or well, self._chance)

    def _well(self, config: TierConfig, tier: str) -> list[TierModel]:
        return [model for model in config.get(tier, ()) if self._is_well(model)]

    def _is_well(self, model: TierModel) -> bool:
        return self._health.rests_until(model) <= self._clock()

    # ------------------------------------------------------------------------------------------------- conversations

    async def _session(self, name: bytes) -> _Session | None:
        """What is remembered of a conversation; while Redis is away nothing is."""
        with contextlib.suppress(RedisUnavailable):
            return _read_session(await self._store.command("GETEX", name, "PX", self._session_ms))
        return None

    async def _keep(self, name: bytes, choice: Choice, user: AuthenticatedUser, *, is_new: bool) -> Choice:
        """Remember a choice; of two that are made at once for a new conversation the first counts."""
        written = msgspec.json.encode(_Session(choice.model.provider, choice.model.model, choice.tier))
        only = ("NX",) if is_new else ()
        try:
            if await self._store.command("SET", name, written, "PX", self._session_ms, *only) is None:
                first = await self._session(name)
                is_higher = first is not None and higher(choice.tier, first.tier) == first.tier
                if first is not None and is_higher and user.may_use(first.model):
                    return Choice(TierModel(first.provider, first.model), first.tier)
        except RedisUnavailable:
            log.debug("a conversation is not remembered, for redis is away", key=log_name(name.decode()))
        return choice

    # -------------------------------------------------------------------------------------------------------- tiers

    async def _tiers(self) -> TierConfig:
        if self._config is None or self._clock() >= self._fresh_until:
            async with self._asking:
                if self._config is None or self._clock() >= self._fresh_until:
                    await self._refresh()
        assert self._config is not None
        return self._config

    async def _refresh(self) -> None:
        """Take the governance's word, through Redis; the last one while it is away. Raises ZionUnavailable."""
        config = await self._of_redis()
        if config is None:
            try:
                config = await self._governance.tiers()
            except ZionUnavailable:
                if self._config is None:
                    raise
                log.warning("zion is away: tiers stay as they were")
                config = self._config
            else:
                await self._to_redis(config)
        self._config, self._fresh_until = config, self._clock() + self._config_seconds

    async def _of_redis(self) -> TierConfig | None:
        try:
            written = await self._store.command("GET", keys.tiers())
            return None if written is None else _tiers.decode(written)
        except (RedisUnavailable, ValueError, RecursionError):
            return None

    async def _to_redis(self, config: TierConfig) -> None:
        with contextlib.suppress(RedisUnavailable):
            milliseconds = round(self._config_seconds * 1000)
            await self._store.command("SET", keys.tiers(), msgspec.json.encode(config), "PX", milliseconds)


_tiers = msgspec.json.Decoder(dict[str, list[TierModel]])
_sessions = msgspec.json.Decoder(_Session)


def _read_session(written: Any) -> _Session | None:
    try:
        return None if written is None else _sessions.decode(written)
    except (ValueError, RecursionError):
        return None


def _of_plan(config: TierConfig, user: AuthenticatedUser) -> TierConfig:
    """The models of each tier that this user's plan has."""
    if user.allowed_models is None:
        return config
    return {tier: [model for model in models if user.may_use(model.model)] for tier, models in config.items()}


def _names(config: TierConfig, tier: str) -> set[str]:
    return {model.model for model in config.get(tier, ())}
