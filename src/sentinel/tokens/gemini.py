"""The input tokens of a request in Gemini's format: an estimate, since no package has its vocabulary.

Text is counted in OpenAI's vocabulary; the provider's own figures correct that (input_ratio.py), and its usage replaces
it in the books. Whatever a part carries is counted: a field that is not named here counts as the JSON that it is.
Source of the numbers unless said otherwise: Google's guides "Understand and count tokens", "Media resolution", "Image
understanding", "Audio understanding", "Video understanding" and "Document understanding".
"""

from collections.abc import Iterable
from math import ceil, floor
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from sentinel.tokens.audio import sound_seconds
from sentinel.tokens.bpe import Count, count_for
from sentinel.tokens.gemini_request import Content, CountBody, EmbedBody, GenerateBody, listed, text_of
from sentinel.tokens.image_size import Size, decoded, inline_size
from sentinel.tokens.models import longest_match
from sentinel.tokens.tools import json_text

_REQUEST_FRAME: Final = 3
_TURN_FRAME: Final = 4
"""Around a turn: nothing is published; as much as others put there."""

_TILE_TOKENS: Final = 258
_SMALL_SIDE, _LEAST_CROP, _LARGEST_CROP, _LONGEST_SIDE = 384, 256, 768, 3_072
"""An image is one tile where both sides are small; else it is cut into tiles of its shorter side by 1.5, in pixels."""
_MOST_IMAGE_TOKENS: Final = 12 * 2 * _TILE_TOKENS
"""Of one whose size is not known here."""
_BY_RESOLUTION: Final = {"gemini-3*": (1_120, 2_240)}
"""Models whose images cost by their media resolution: the one that is set unasked, and the highest."""

_SOUND_TOKENS_PER_SECOND: Final = 32
_SOUND_BYTES_PER_SECOND: Final = 2_000
"""Of speech in the tightest coding that is usual: 16 kbit/s."""
_VIDEO_TOKENS_PER_SECOND: Final = 300
_VIDEO_BYTES_PER_SECOND: Final = 31_250
"""Of a small picture: 250 kbit/s."""

_BASE64_PER_DOCUMENT_TOKEN: Final = 16
_LEAST_DOCUMENT_TOKENS: Final = 3_000
"""As of documents in messages.py: a page costs up to 560 tokens and its text, and few take less than 50 KB."""
_REMOTE_TOKENS: Final = 1_000 * _TILE_TOKENS
"""What lies elsewhere: a document of the most pages that there may be, or 14 minutes of a video."""

_BASE64_PER_SIGNATURE_TOKEN: Final = 4

_NAMES: Final = {
    "inline_data": "inlineData",
    "file_data": "fileData",
    "function_response": "functionResponse",
    "thought_signature": "thoughtSignature",
}
_RESOLUTION: Final = frozenset(("mediaResolution", "media_resolution"))
_NOTHING: Final = (Raw(), Raw(b"null"))
_MOST_DEPTH: Final = 2
"""A part of an answer of a function is the last that may hold parts."""


class _Blob(Struct, gc=False, rename="camel"):
    """Something inline in base64, or at an address. All names are counted, so that either may be there."""

    mime_type: str | None = None
    also_mime_type: str | None = field(default=None, name="mime_type")
    data: str | None = None

    @property
    def kind(self) -> str:
        """What its type begins with, such as `image`."""
        return (self.mime_type or self.also_mime_type or "").strip().lower().partition("/")[0]


_blob = msgspec.json.Decoder(_Blob)
_fields = msgspec.json.Decoder(dict[str, Raw])
_parts = msgspec.json.Decoder(list[dict[str, Raw]])


def generate_tokens(body: GenerateBody, model: str) -> int:
    """Return the estimated input tokens: turns, system instruction, tools, the schema of the answer."""
    total = _Sum(model)
    total.contents([*listed(body.contents), *([body.system_instruction] if body.system_instruction else [])])
    config = body.config
    for raw in (body.tools, body.tool_config, config.response_schema, config.response_json_schema):
        total.json(raw)
    return total.tokens


def counted_tokens(body: CountBody, model: str) -> int:
    """Return the same of what is only to be counted."""
    total = _Sum(model)
    total.contents(listed(body.contents))
    whole = body.generate_content_request
    return total.tokens + (0 if whole is None else generate_tokens(whole, model))


def embedded_tokens(bodies: Iterable[EmbedBody], model: str) -> int:
    """Return the same of what is to be embedded; each has its own vector."""
    tokens = 0
    for body in bodies:
        total = _Sum(model)
        total.contents([body.content] if body.content else [])
        total.text(body.title or "")
        tokens += total.tokens
    return tokens


class _Sum:
    """Adds up what is counted."""

    def __init__(self, model: str) -> None:
        self._count: Count = count_for(model)
        self._by_resolution = longest_match(_BY_RESOLUTION, model, None)
        self._depth = 0
        self.tokens = _REQUEST_FRAME

    def contents(self, contents: Iterable[Content]) -> None:
        for content in contents:
            self.tokens += _TURN_FRAME
            for part in content.listed:
                self.part(part)

    def text(self, text: str) -> None:
        if text:
            self.tokens += self._count(text)

    def json(self, raw: Raw | None) -> None:
        """JSON as it is, but for white space."""
        if raw is not None and raw not in _NOTHING:
            self.text(json_text(raw))

    def part(self, part: dict[str, Raw]) -> None:
        has_resolution = not _RESOLUTION.isdisjoint(part)
        for key, raw in part.items():
            match _NAMES.get(key, key):
                case "text":
                    self._text(raw)
                case "inlineData":
                    self._inline(raw, has_resolution=has_resolution)
                case "fileData":
                    self._remote(raw, has_resolution=has_resolution)
                case "functionResponse":
                    self._response(raw)
                case "thoughtSignature":
                    self.tokens += len(raw) // _BASE64_PER_SIGNATURE_TOKEN
                case "thought":
                    pass
                case _:
                    self.json(raw)

    def _text(self, raw: Raw) -> None:
        try:
            self.text(text_of(raw))
        except msgspec.DecodeError:
            # Those of an answer of a function have not been looked at before.
            self.json(raw)

    def _response(self, raw: Raw) -> None:
        """An answer of a function: JSON, and parts that it may have beside that."""
        try:
            fields = _fields.decode(raw)
            parts = _parts.decode(fields.pop("parts", b"[]")) if self._depth < _MOST_DEPTH else None
        except (msgspec.DecodeError, RecursionError):
            parts = None
        if parts is None:
            self.json(raw)
            return
        for value in fields.values():
            self.json(value)
        self._depth += 1
        for part in parts:
            self.part(part)
        self._depth -= 1

    def _inline(self, raw: Raw, *, has_resolution: bool) -> None:
        blob = _read_blob(raw)
        if blob is None:
            self.json(raw)
            return
        data = blob.data or ""
        match blob.kind:
            case "image":
                self.tokens += self._image(_size_of(data), has_resolution=has_resolution)
            case "audio":
                self.tokens += ceil(sound_seconds(data, _SOUND_BYTES_PER_SECOND) * _SOUND_TOKENS_PER_SECOND)
            case "video":
                self.tokens += ceil(len(data) * 3 / 4 / _VIDEO_BYTES_PER_SECOND * _VIDEO_TOKENS_PER_SECOND)
            case "text":
                self.text(decoded(data).decode("utf-8", "replace"))
            case _:
                self.tokens += max(_LEAST_DOCUMENT_TOKENS, len(data) // _BASE64_PER_DOCUMENT_TOKEN)

    def _remote(self, raw: Raw, *, has_resolution: bool) -> None:
        blob = _read_blob(raw)
        is_image = blob is not None and blob.kind == "image"
        self.tokens += self._image(None, has_resolution=has_resolution) if is_image else _REMOTE_TOKENS

    def _image(self, size: Size | None, *, has_resolution: bool) -> int:
        if self._by_resolution is not None:
            return self._by_resolution[has_resolution]
        return _MOST_IMAGE_TOKENS if size is None else _tiles(size) * _TILE_TOKENS


def _read_blob(raw: Raw) -> _Blob | None:
    try:
        return _blob.decode(raw)
    except msgspec.DecodeError:
        return None


def _size_of(data: str) -> Size | None:
    """The size of an image in base64, of which Google reads the form that is safe in URLs, too."""
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    return inline_size(f"data:;base64,{data}") if data else None


def _tiles(size: Size) -> int:
    """How many tiles an image is cut into."""
    width, height = size.width, size.height
    if max(width, height) <= _SMALL_SIDE:
        return 1
    shrink = min(1.0, _LONGEST_SIDE / max(width, height))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    crop = min(_LARGEST_CROP, max(_LEAST_CROP, floor(min(width, height) / 1.5)))
    return ceil(width / crop) * ceil(height / crop)
