"""The provider's list of models, kept for a minute, and longer while the provider is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
import structlog

from sentinel.clock import monotonic
from sentinel.error import AppError, ModelNotFound, UpstreamError
from sentinel.proxy.provider import AiProvider
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


class ModelCatalog:
    """What models there are. Knows nothing before the first answer."""

    def __init__(self, provider: AiProvider, tasks: Tasks) -> None:
        self._provider = provider
        self._tasks = tasks
        self._body = b""
        self._models: Mapping[str, bytes] = {}
        self._fresh_until = 0.0
        self._fetching = asyncio.Lock()
        self.healthy: bool | None = None

    def label(self, model: str) -> str:
        """The metric label of this model; refreshes the list in the background when it is old."""
        if monotonic() >= self._fresh_until:
            self._fresh_until = monotonic() + _RETRY_SECONDS
            self._tasks.start(self.refresh(), "refresh models")
        return model if model in self._models else OTHER

    async def listing(self, request_id: str) -> bytes:
        """The body of GET /models. Raises UpstreamError, UpstreamTimeout where there was never an answer."""
        if monotonic() >= self._fresh_until or not self._body:
            async with self._fetching:
                await self._fetch_if_old(request_id)
        return self._body

    async def _fetch_if_old(self, request_id: str) -> None:
        # Somebody else may have fetched it while we waited for our turn.
        if monotonic() < self._fresh_until and self._body:
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
        if listed_only or not _is_name(model):
            raise missing
        answer = await self._provider.get(f"/models/{quote(model, safe='')}", request_id)
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
        try:
            answer = await self._provider.get("/models", request_id)
        except AppError:
            self.healthy = False
            raise
        # Not every provider lists its models; one that says so is there all the same.
        self.healthy = answer.status in (200, 404, 405)
        if answer.status != 200:
            raise UpstreamError("The model provider failed to list its models.")
        try:
            listing = msgspec.json.decode(answer.body, type=_Listing)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError("The model provider gave a broken answer.") from error
        self._models = {str(model.get("id")): msgspec.json.encode(model) for model in listing.data}
        self._body = answer.body
        self._fresh_until = monotonic() + FRESH_SECONDS


def no_such(model: str) -> ModelNotFound:
    """There is no such model, or none for this caller."""
    return ModelNotFound(f"The model '{model[:96]}' does not exist.", param="model")


def _is_name(model: str) -> bool:
    """Whether this can be asked for at the provider without becoming another path there."""
    segments = model.replace("\\", "/").split("/")
    return len(model) <= _MOST_NAME and model.isprintable() and not any(not part.strip(".") for part in segments)
