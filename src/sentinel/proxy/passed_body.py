"""The body of a request that is passed through: JSON is held, for what it names must be judged; all else is streamed.

What a client calls its body is not taken on trust: a provider may read JSON in what is called plain text, or a form.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from sentinel.endpoints.multipart import MultipartReader, boundary_of
from sentinel.endpoints.named_models import models_in, models_in_pairs
from sentinel.endpoints.objects import FIELDS, JsonBody, read_body
from sentinel.endpoints.references import Reference, reference_to
from sentinel.error import InvalidType, RequestTooLarge, UnsupportedEncoding
from sentinel.middleware.model_check import ModelCheck
from sentinel.proxy import content_coding
from sentinel.proxy.provider import StreamedBody
from sentinel.proxy.receive import codings_of, receive
from sentinel.tasks import pause
from sentinel.tokens.counter import is_large

if TYPE_CHECKING:
    from sentinel.proxy.client import ClientSide
    from sentinel.proxy.state import ExchangeState

Check = Callable[[Sequence[Reference]], Awaitable[object]]
"""Raises NotFound for what is not the caller's."""

JSON = b"application/json"
_FORM = b"application/x-www-form-urlencoded"
_OPAQUE = (b"application/octet-stream", b"application/sdp", b"audio/", b"video/", b"image/", b"application/zip")
"""Types that nobody takes for JSON or a form."""
_BLANK = b" \t\r\n\xef\xbb\xbf"
_MOST_BLANK_BYTES = 64 * 1024
_MOST_FORM_BYTES = 64 * 1024
_AHEAD_BYTES = 64 * 1024
"""Of a form of a caller whose plan does not have all models: mostly all of its fields, and the beginning of a file."""
_STEP_BYTES, _MANY_PARTS = 16 * 1024, 64
"""Of a multipart body in one go: 300 tiny parts take 4 ms."""


class PassedBody:
    """A body that is sent on as it comes; one in multipart is looked at, and held where it names an object.

    seconds: for each piece. begun: its first piece, and whether more follows.
    """

    def __init__(
        self,
        client: ClientSide,
        seconds: float,
        begun: tuple[bytes, bool],
        reader: MultipartReader | None,
        check: Check,
        models: ModelCheck,
    ) -> None:
        declared = client.headers.get(b"content-length", b"")
        self.length = int(declared) if declared.isdigit() else None
        self.is_whole = False
        self._is_checked = False
        self._client = client
        self._seconds = seconds
        self._begun = begun
        self._reader = reader
        self._check = check
        self._models = models

    async def look_ahead(self, most_bytes: int) -> None:
        """Read and check so much of it before anybody is asked. Raises as its pieces do."""
        if self._reader is None:
            self._models.all({})
            return
        looked_at, size, (piece, more) = b"", 0, self._begun
        while True:
            size += len(piece)
            looked_at += await self._checked(self._reader, piece, more=more)
            if not more or size >= most_bytes:
                break
            piece, more = await self._client.read_piece(self._seconds)
        self._begun, self._is_checked = (looked_at, more), True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces. Raises RequestTimeout, ClientGone, InvalidType, NotFound, ModelNotAllowed."""
        piece, more = self._begun
        self._begun = (b"", more)
        while True:
            if self._reader is not None and not self._is_checked:
                piece = await self._checked(self._reader, piece, more=more)
            self._is_checked = False
            if piece:
                yield piece
            if not more:
                self.is_whole = True
                return
            piece, more = await self._client.read_piece(self._seconds)

    async def _checked(self, reader: MultipartReader, piece: bytes, *, more: bool) -> bytes:
        passing: list[bytes] = []
        for start in range(0, len(piece), _STEP_BYTES):
            if reader.parts > _MANY_PARTS:
                await pause(0)
            passing.append(reader.feed(piece[start : start + _STEP_BYTES]))
            if reader.named:
                await self._check(reader.named)
        self._models.so_far(reader.models)
        if not more:
            self._models.all(reader.models)
            reader.end()
            passing.append(reader.rest())
        return b"".join(passing)


class TakenBody:
    """What was made of a body. type: what the provider is told that it is. asked: of JSON, what is decided on."""

    def __init__(self, body: bytes | StreamedBody, type_: bytes | None, asked: JsonBody | None = None) -> None:
        self.body = body
        self.type = type_
        self.asked = asked or JsonBody("", ())


async def read(exchange: ExchangeState, check: Check, models: ModelCheck) -> TakenBody:
    """The body, whole where it is JSON or a form; what it names is checked, or will be before it passes.

    Raises what is wrong with it.
    """
    client, deps = exchange.client, exchange.deps
    type_ = client.headers.get(b"content-type", b"").strip()
    if not _has_body(client):
        models.all({})
        return TakenBody(b"", type_ or None)
    boundary, kind = boundary_of(type_), type_.partition(b";")[0].strip().lower()
    # Of two types nobody knows which a provider takes.
    can_be_read = boundary is None and (not kind.startswith(_OPAQUE) or b"," in kind)
    is_coded = bool(codings_of(client.headers))
    if _is_json(kind) or (is_coded and can_be_read):
        small = client.take_small_body(deps.max_body_bytes)
        return await _whole(exchange, await receive(exchange) if small is None else small, check, models)
    if is_coded:
        raise UnsupportedEncoding(
            "A file must be sent as it is.",
            param="content-encoding",
            headers=((b"accept-encoding", content_coding.ACCEPTED),),
        )
    assert exchange.context.user is not None
    client.takes_pieces_of(exchange.context.user.id)
    seconds = deps.body_timeout_seconds
    if not can_be_read:
        reader = None if boundary is None else MultipartReader(boundary, FIELDS, finds_models=models.is_needed)
        passed = PassedBody(client, seconds, (b"", True), reader, check, models)
        if models.is_needed:
            await passed.look_ahead(_AHEAD_BYTES)
        return TakenBody(passed, type_)
    begun, more = await _begin(client, seconds)
    if _looks_like_json(begun) or kind == _FORM:
        most_bytes = deps.max_body_bytes if kind != _FORM else _MOST_FORM_BYTES
        return await _whole(exchange, await _rest(exchange, begun, most_bytes, more=more), check, models)
    models.all({})
    return TakenBody(PassedBody(client, seconds, (begun, more), None, check, models), type_ or None)


def _is_json(kind: bytes) -> bool:
    return kind == JSON or kind.endswith(b"+json")


def _looks_like_json(begun: bytes) -> bool:
    return begun.lstrip(_BLANK)[:1] in {b"{", b"["}


async def _whole(exchange: ExchangeState, body: bytes, check: Check, models: ModelCheck) -> TakenBody:
    """A body that is held. Raises what is wrong with it, NotFound, and ModelNotAllowed."""
    type_ = exchange.client.headers.get(b"content-type", b"").strip()
    kind = type_.partition(b";")[0].strip().lower()
    if _is_json(kind) or _looks_like_json(body):
        return await _json(exchange, body, check, models)
    if kind == _FORM:
        if len(body) > _MOST_FORM_BYTES:
            raise _too_large(_MOST_FORM_BYTES)
        await check(await exchange.deps.beside(_in_form, body))
    if models.is_needed:
        models.all(await exchange.deps.beside(models_in_pairs, body) if kind == _FORM else {})
    return TakenBody(body, type_ or None)


def _too_large(most_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"Request body is larger than the limit of {most_bytes} bytes.")


def _has_body(client: ClientSide) -> bool:
    return client.headers.get(b"content-length", b"0").strip(b"0") != b"" or b"transfer-encoding" in client.headers


async def _json(exchange: ExchangeState, body: bytes, check: Check, models: ModelCheck) -> TakenBody:
    if not body:
        models.all({})
        return TakenBody(body, JSON)
    asked = await exchange.deps.beside(read_body, body) if is_large(len(body)) else read_body(body)
    await check(asked.references)
    if models.is_needed:
        models.all(await exchange.deps.beside(models_in, body) if is_large(len(body)) else models_in(body))
    return TakenBody(body, JSON, asked)


async def _begin(client: ClientSide, seconds: float) -> tuple[bytes, bool]:
    """How the body begins, up to something that is not blank, and whether more follows."""
    begun, more = b"", True
    while more and not begun.strip(_BLANK):
        if len(begun) > _MOST_BLANK_BYTES:
            raise InvalidType("The body of your request begins with too much white space.")
        piece, more = await client.read_piece(seconds)
        begun += piece
    return begun, more


async def _rest(exchange: ExchangeState, begun: bytes, most_bytes: int, *, more: bool) -> bytes:
    """The whole body, of which this is the beginning."""
    pieces, size = [begun], len(begun)
    while more:
        piece, more = await exchange.client.read_piece(exchange.deps.body_timeout_seconds)
        pieces.append(piece)
        size += len(piece)
        exchange.client.holds_open(size)
        if size > most_bytes:
            raise _too_large(most_bytes)
    return b"".join(pieces)


def _in_form(form: bytes) -> list[Reference]:
    named = ((FIELDS.part_of(name), value) for name, value in parse_qsl(form.decode("latin-1")))
    return [reference_to(value, kind, name) for name, value in named if (kind := FIELDS.kind_of(name)) is not None]
