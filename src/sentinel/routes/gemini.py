"""Gemini's paths: the model and what it is to do are parts of them, and a key may stand in the query.

Google's API has versions; its SDKs ask for `/v1` or `/v1beta`, which differ in nothing that is looked at here. GET
/v1beta/models and /v1beta/models/{model}: the provider's models, as Google tells them; below `/v1` to Google's clients.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote_plus

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sentinel.endpoints import gemini
from sentinel.endpoints.gemini import BETA, STABLE, GeminiEndpoint
from sentinel.endpoints.gemini_count import ContentCountEndpoint
from sentinel.endpoints.gemini_embeddings import BatchEmbedContentsEndpoint, EmbedContentEndpoint
from sentinel.endpoints.generate_content import GenerateContentEndpoint, StreamGenerateContentEndpoint
from sentinel.error import Header, MethodNotAllowed
from sentinel.proxy.catalog import no_such
from sentinel.routes import models
from sentinel.routes.state import AppState

_KINDS: dict[str, type[GeminiEndpoint[Any]]] = {
    kind.method: kind
    for kind in (
        GenerateContentEndpoint,
        StreamGenerateContentEndpoint,
        ContentCountEndpoint,
        EmbedContentEndpoint,
        BatchEmbedContentsEndpoint,
    )
}
"""The metered formats, by what stands behind the colon of their paths."""
_PATH = re.compile(rf"/({BETA}|{STABLE})/((?:models|tunedModels)/[^\n]*):(\w+)")
_BELOW, _STABLE_MODELS = f"/{BETA}/", f"/{STABLE}/models"
_KEY_HEADER = b"x-goog-api-key"

render = gemini.render


def is_its(path: str) -> bool:
    """Whether errors of this path are told in Google's shape: of what is metered, and all below /v1beta."""
    return is_below(path) or endpoint_of(path, b"") is not None


def is_below(path: str) -> bool:
    """Whether this is /v1beta, or below it, served or not."""
    return path.startswith(_BELOW) or path == _BELOW[:-1]


def asks_for_work(path: str, allow: str) -> bool:
    """Whether a path would have a model do what none does here. allow: the methods of whoever has the path."""
    return "POST" not in allow and is_below(path) and ":" in path.rpartition("/")[2]


def takes_key(path: str) -> bool:
    """Whether a key may stand in the query of this path."""
    return path.startswith(_STABLE_MODELS) or is_its(path)


def endpoint_of(path: str, query: bytes) -> GeminiEndpoint[Any] | None:
    """The endpoint of a path as it is served, decoded; None for one that is no metered one."""
    found = _PATH.fullmatch(path)
    kind = None if found is None else _KINDS.get(found[3])
    if found is None or kind is None:
        return None
    return kind(found[1], found[2], query)


def with_key(headers: Sequence[Header], query: bytes) -> Sequence[Header]:
    """The headers of a request, with the key of its query where no header has one: below them all, as a header."""
    keys = [value for name, _, value in (pair.partition(b"=") for pair in query.split(b"&")) if name == b"key"]
    if not keys or any(name == _KEY_HEADER and value.strip() for name, value in headers):
        return headers
    key = unquote_plus(keys[0].decode("latin-1")).encode("utf-8", "replace")
    return [*(header for header in headers if header[0] != _KEY_HEADER), (_KEY_HEADER, key)]


async def listing(request: Request) -> Response:
    """The list, all on one page."""
    user = await models.admit(request)
    state: AppState = request.app.state.sentinel
    known = msgspec.json.decode(await state.catalog.listing(request.scope["request_id"]))["data"]
    ids = [str(each.get("id")) for each in known]
    return _answer({"models": [_model(id_) for id_ in ids if user.may_use(gemini.model_of(id_))]})


async def model(request: Request) -> Response:
    """One model."""
    user = await models.admit(request)
    if endpoint_of(request.scope["path"], b"") is not None:
        raise MethodNotAllowed(f"Not allowed: {request.method} where a model is to do something. Use POST.")
    state: AppState = request.app.state.sentinel
    name = gemini.model_of(request.path_params["model"])
    if not user.may_use(name):
        raise no_such(name)
    await state.catalog.one(name, request.scope["request_id"], listed_only=request.method == "HEAD")
    return _answer(_model(name))


async def any_listing(request: Request) -> Response:
    """The list below /v1, as the caller knows it."""
    return await (listing if _KEY_HEADER.decode() in request.headers else models.models)(request)


async def any_model(request: Request) -> Response:
    """One model below /v1, as the caller knows it."""
    return await (model if _KEY_HEADER.decode() in request.headers else models.model)(request)


def _model(name: str) -> dict[str, Any]:
    """A model as Google tells it, as far as it is known here."""
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": list(_KINDS)}


def _answer(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _never(_: Request) -> Response:
    raise AssertionError("served before Starlette is asked")


def _of(version: str) -> list[Route]:
    """What is metered in this version of Google's API."""
    paths = [kind.route_of(version).replace("{model}", "{model:path}") for kind in _KINDS.values()]
    return [Route(path, _never, methods=["POST"]) for path in paths]


TWICE = _of(STABLE)
"""The same as below /v1beta; who asks for a path that there is not is told once."""
ROUTES = [
    *_of(BETA),
    *TWICE,
    Route(f"/{BETA}/models", listing, methods=["GET"]),
    Route(f"/{BETA}/models/{{model:path}}", model, methods=["GET"]),
]
