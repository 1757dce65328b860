"""The list of models: what providers list, kept for a minute, and longer while they are away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec
import structlog

from sentinel.clock import monotonic
from sentinel.error import AppError, ModelNotFound, UpstreamError
from sentinel.proxy.provider import AiProvider
from sentinel.proxy.registry import Registry, Target
from sentinel.tasks import Tasks

log = structlog.get_logger()

FRESH_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_MOST_NAME = 256
"""As in bodies (body.py)."""
OTHER = "other"
"""The metric label of a model that the provider does not list: clients must not invent labels."""


class _Listing(msgspec.Struct):
    data: list[dict[str, object]]


class _Listed:
    """What one provider lists. body: of its GET /models, empty before the first answer."""

    def __init__(self, provider: AiProvider) -> None:
        self.provider = provider
        self.body = b""
        self.models: Mapping[str, dict[str, object]] = {}
        self.healthy: bool | None = None

    async def fetch(self, request_id: str, *, may_list_none: bool) -> None:
        """Ask for the list anew. Raises UpstreamError, UpstreamTimeout, and the old one stays.

        may_list_none: it is no failure of a provider to have no list.
        """
        try:
            answer = await self.provider.get("/models", request_id)
        except AppError:
            self.healthy = False
            raise
        # Not every provider lists its models; one that says so is there all the same.
        lists_none = answer.status in (404, 405)
        self.healthy = answer.status == 200 or lists_none
        if lists_none and may_list_none:
            self.models, self.body = {}, b""
            return
        if answer.status != 200:
            raise UpstreamError("The model provider failed to list its models.")
        try:
            listing = msgspec.json.decode(answer.body, type=_Listing)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError("The model provider gave a broken answer.") from error
        self.models = {str(model.get("id")): model for model in listing.data}
        self.body = answer.body


class ModelCatalog:
    """What models there are: what one provider lists, or what the file names and several list of it.

    Knows nothing before the first answer.
    """

    def __init__(self, registry: Registry, tasks: Tasks) -> None:
        self._registry = registry
        self._tasks = tasks
        self._listed: dict[str, _Listed] = {}
        self._body = b""
        self._models: Mapping[str, bytes] = {}
        self._of: Sequence[Target] = ()
        self._fresh_until = 0.0
        self._fetching = asyncio.Lock()

    @property
    def healthy(self) -> bool | None:
        """Whether every provider answered its last question; None before."""
        told = [each.healthy for each in self._listed.values()]
        if None in told or not told:
            return None
        return all(told)

    @property
    def _is_fresh(self) -> bool:
        return monotonic() < self._fresh_until and self._of is self._registry.providers

    def label(self, model: str) -> str:
        """The metric label of this model; refreshes the list in the background when it is old."""
        if monotonic() >= self._fresh_until or self._of is not self._registry.providers:
            self._fresh_until, self._of = monotonic() + _RETRY_SECONDS, self._registry.providers
            self._tasks.start(self.refresh(), "refresh models")
        return model if model in self._models else OTHER

    async def listing(self, request_id: str) -> bytes:
        """The body of GET /models. Raises UpstreamError, UpstreamTimeout where there was never an answer."""
        if not (self._is_fresh and self._body):
            async with self._fetching:
                await self._fetch_if_old(request_id)
        return self._body

    async def _fetch_if_old(self, request_id: str) -> None:
        # Somebody else may have fetched it while we waited for our turn.
        if self._is_fresh and self._body:
            return
        try:
            await self._fetch(request_id)
        except AppError:
            if not self._body:
                raise

    async def one(self, model: str, request_id: str, *, listed_only: bool = False) -> bytes:
        """The body of GET /models/{id}. Raises ModelNotFound, UpstreamError, UpstreamTimeout.

        listed_only: do not ask the provider for what it does not list.
        """
        await self.listing(request_id)
        if (known := self._models.get(model)) is not None:
            return known
        missing = no_such(model)
        only = self._registry.only
        if listed_only or only is None or not _is_name(model):
            raise missing
        answer = await only.provider.get(f"/models/{quote(model, safe='')}", request_id)
        if answer.status == 200:
            return answer.body
        if answer.status == 404:
            raise missing
        raise UpstreamError("The model provider failed to process the request.")

    async def refresh(self) -> None:
        """Fetch the list anew; a failure leaves the old one."""
        try:
            async with self._fetching:
                await self._fetch("req_catalog")
        except AppError as error:
            log.warning("the list of models stays as it was", reason=error.code)

    async def _fetch(self, request_id: str) -> None:
        self._fresh_until = monotonic() + _RETRY_SECONDS
        providers = self._of = self._registry.providers
        known = self._listed
        listed = self._listed = {
            target.name: known[target.name]
            if target.name in known and known[target.name].provider is target.provider
            else _Listed(target.provider)
            for target in providers
        }
        is_alone = self._registry.only is not None and not self._registry.served
        results = await asyncio.gather(
            *(each.fetch(request_id, may_list_none=not is_alone) for each in listed.values()), return_exceptions=True
        )
        if self._registry.providers is not providers:
            # The file was read anew meanwhile, and names others.
            await self._fetch(request_id)
            return
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, AppError):
                raise failure
        if is_alone:
            (alone,) = listed.values()
            if failures:
                raise failures[0]
            self._models = {name: msgspec.json.encode(model) for name, model in alone.models.items()}
            self._body = alone.body
        else:
            union = self._union()
            self._models = {name: msgspec.json.encode(model) for name, model in union.items()}
            self._body = msgspec.json.encode({"object": "list", "data": list(union.values())})
        self._fresh_until = monotonic() + (_RETRY_SECONDS if failures else FRESH_SECONDS)

    def _union(self) -> dict[str, dict[str, object]]:
        """Exact names of the file, and what providers list that a prefix of it fits and that goes to them."""
        union: dict[str, dict[str, object]] = {}
        for entry in self._registry.served:
            for target in (*entry.targets, *entry.fallback):
                assert target.route is not None
                listed = self._listed[target.name].models
                if entry.spec.is_exact:
                    name = entry.spec.pattern
                    told = listed.get(target.route.model or name, {})
                    union.setdefault(name, _entry(told, name, target.name))
                elif target.route.model is None:
                    fitting = (name for name in listed if self._registry.entry_of(name) is entry)
                    for name in fitting:
                        union.setdefault(name, _entry(listed[name], name, target.name))
        return union


def _entry(told: Mapping[str, object], name: str, provider: str) -> dict[str, object]:
    """A model as OpenAI lists one, whatever format its provider has."""
    return {"object": "model", "created": 0, "owned_by": provider, **told, "id": name}


def no_such(model: str) -> ModelNotFound:
    """There is no such model, or none for this caller."""
    return ModelNotFound(f"The model '{model[:96]}' does not exist.", param="model")


def _is_name(model: str) -> bool:
    """Whether this can be asked for at the provider without becoming another path there."""
    segments = model.replace("\\", "/").split("/")
    return len(model) <= _MOST_NAME and model.isprintable() and not any(not part.strip(".") for part in segments)
