"""OpenAI's images: POST /v1/images/generations, /v1/images/edits, /v1/images/variations, whole or as a stream.

Nobody here sees how many tokens an image costs before its usage is told, and no provider can be told a maximum: the
most that the images can cost is reserved, or the request is refused (tokens/generated_images.py).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from sentinel.endpoints import json_body
from sentinel.endpoints.encoded_stream import EncodedMeter, without_encoded
from sentinel.endpoints.endpoint import OutputBound
from sentinel.endpoints.form import Form, FormFile
from sentinel.endpoints.named_models import NamedModels
from sentinel.endpoints.references import ReferenceFields
from sentinel.endpoints.refusal import refusal_event
from sentinel.endpoints.strict_json import Shape
from sentinel.endpoints.upload import MediaEndpoint, UploadEndpoint
from sentinel.error import MissingParameter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.generated_images import PARTIAL_TOKENS, author_ceiling, frames_of, image_ceiling
from sentinel.tokens.image_size import size_of
from sentinel.tokens.images import ASSUMED_SIZE, image_tokens, url_tokens
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.media_request import ImageRequest, InputImage, Svg
from sentinel.tokens.usage import NOTHING, Usage, read_usage

_decoder = msgspec.json.Decoder(ImageRequest)
_SHAPE: Shape = {"svg": {}, "images": {}, "mask": {}}
_IMAGES = [(0, "")]
"""Images have no reason to end; that there are any is enough for the input to be spent."""
_TEXTS = ("model", "prompt", "size", "quality", "output_format")
_NUMBERS = ("n", "frame_count", "partial_images")
_DECIDED = frozenset((*_TEXTS, *_NUMBERS, "stream"))
_PARTIAL, _COMPLETED = ".partial_image", ".completed"
_DEFAULT_VARIATIONS = "dall-e-2"
"""The only model that OpenAI has had for them."""


class ImagesRequest(Struct, gc=False):
    """What is decided on of a request. wanted: its fields; files: the images that it has."""

    model: str
    stream: bool | None
    wanted: ImageRequest
    files: list[FormFile] = []


def output_ceiling(wanted: ImageRequest) -> int:
    """The most output tokens that an answer can cost."""
    each = image_ceiling(wanted.model, wanted.size, wanted.quality)
    if not each:
        return 0
    author = author_ceiling(wanted.output_format, None if wanted.svg is None else wanted.svg.model)
    partial = PARTIAL_TOKENS * (wanted.partial_images or 0) if wanted.stream else 0
    return (wanted.n or 1) * (each * frames_of(wanted.output_format, wanted.frame_count) + author + partial)


class ImagesMeter(EncodedMeter):
    """The meter of one stream. An image is charged at the most that all can cost, until its usage is told."""

    __slots__ = ("_left", "_most")

    def __init__(self, request: ImagesRequest, redactor: Redactor) -> None:
        super().__init__(request.model, redactor)
        self._most = output_ceiling(request.wanted)
        self._left = request.wanted.n or 1

    def note(self, kind: str, fields: dict[str, Any], size: int) -> bool:  # noqa: ARG002
        """Note an event; whether it is that of the last image."""
        self._charge_once()
        self.tell(_usage(fields))
        if kind.endswith(_COMPLETED):
            self._left -= 1
        return kind.endswith(_COMPLETED) and self._left <= 0

    def note_unread(self, size: int) -> None:  # noqa: ARG002
        """Whatever it was, it was no more than all images."""
        self._charge_once()

    def _charge_once(self) -> None:
        self.charge(self._most)
        self._most = 0


class _ImagesEndpoint(MediaEndpoint[ImagesRequest]):
    format = "images"
    ids = ReferenceFields({"file_id": "files"})

    def read(self, body: bytes) -> ImagesRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        wanted = json_body.read(_decoder.decode, _SHAPE, body)
        if wanted.prompt is None:
            raise MissingParameter("Missing required parameter: 'prompt'.", param="prompt")
        return ImagesRequest(wanted.model, wanted.stream, wanted)

    def named_models(self, request: ImagesRequest, body: bytes) -> NamedModels:
        """Also that of who writes an SVG. Raises InvalidJson."""
        author = None if request.wanted.svg is None else request.wanted.svg.model
        return {**super().named_models(request, body), **({author: "svg.model"} if author else {})}

    def count(self, request: ImagesRequest, counter: TokenCounter) -> int:
        """The tokens of the prompt, and of the images that are to be changed."""
        wanted, model = request.wanted, request.model
        tokens = counter.count_text(wanted.prompt or "", model)
        named = [*(wanted.images or ()), *([] if wanted.mask is None else [wanted.mask])]
        tokens += sum(_named_tokens(image, model) for image in named)
        return tokens + sum(image_tokens(size_of(file.head) or ASSUMED_SIZE, None, model) for file in request.files)

    def forget_prompt(self, request: ImagesRequest) -> None:
        """Free what was read to be counted."""
        request.wanted.prompt = request.wanted.images = request.wanted.mask = None
        request.files = []

    def bound(self, request: ImagesRequest) -> OutputBound:
        """All that the images can cost; a client that leaves has them made nevertheless."""
        most = output_ceiling(request.wanted)
        return OutputBound(1, 1, None, most, False, False, most > 0, most)

    def meter(self, request: ImagesRequest, redactor: Redactor) -> ImagesMeter:
        """The meter of the request's stream."""
        return ImagesMeter(request, redactor)

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says; None if it cannot be read. Without usage it costs its input."""
        answer = parse(without_encoded(body))
        if not isinstance(answer, dict):
            return None
        failed = bool(answer.get("error"))
        return Reading([], _usage(answer), [] if failed else _IMAGES, failed)

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream: one for each image, with usage in the last."""
        answer = parse(body)
        images = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(images, list) or not images:
            return refusal_event(body)
        common = {key: value for key, value in answer.items() if key not in ("data", "usage", "created")}
        kind = f"image_{'edit' if self.route.endswith('edits') else 'generation'}{_COMPLETED}"
        events = [
            {"type": kind, "created_at": answer.get("created"), **common, **image}
            for image in images
            if isinstance(image, dict)
        ]
        if events and "usage" in answer:
            events[-1]["usage"] = answer["usage"]
        return b"".join(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(event)) for event in events)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:  # noqa: ARG002
        """A provider's refusal as the last event of a stream."""
        return refusal_event(body)


class ImageGenerationsEndpoint(_ImagesEndpoint):
    """Generations: a prompt in, images out."""

    route = "/v1/images/generations"
    path = b"/images/generations"


class ImageEditsEndpoint(_ImagesEndpoint, UploadEndpoint[ImagesRequest]):
    """Edits: images and a prompt in, images out. A form with the images, or JSON that names them."""

    route = "/v1/images/edits"
    path = b"/images/edits"
    decided = _DECIDED

    def from_form(self, form: Form) -> ImagesRequest:
        """The request that a form is. Raises InvalidType, MissingParameter."""
        form.needed("prompt")
        return _request_of(form, form.needed("model"))


class ImageVariationsEndpoint(_ImagesEndpoint, UploadEndpoint[ImagesRequest]):
    """Variations: an image in, others like it out."""

    route = "/v1/images/variations"
    path = b"/images/variations"
    decided = _DECIDED

    def read(self, body: bytes) -> ImagesRequest:
        """Only a form is taken. Raises InvalidForm."""
        return UploadEndpoint.read(self, body)

    def from_form(self, form: Form) -> ImagesRequest:
        """The request that a form is. Raises InvalidType."""
        return _request_of(form, form.text("model") or _DEFAULT_VARIATIONS)


def _request_of(form: Form, model: str) -> ImagesRequest:
    given: dict[str, Any] = {name: form.text(name) for name in _TEXTS} | {name: form.number(name) for name in _NUMBERS}
    author = form.text("svg[model]")
    fields = {**given, "model": model, "stream": form.truth("stream")}
    wanted = json_body.fitted(fields, ImageRequest)
    wanted.svg = None if author is None else Svg(author)
    return ImagesRequest(model, wanted.stream, wanted, form.files)


def _named_tokens(image: InputImage, model: str) -> int:
    if image.image_url is None:
        return image_tokens(ASSUMED_SIZE, None, model)
    return url_tokens(image.image_url, None, model)


def _usage(told: dict[str, Any]) -> Usage:
    """What an answer or an event tells of usage: of its images, and of who has written an SVG."""
    usage, author = read_usage(told.get("usage")), read_usage(told.get("svg_usage"))
    return usage if author == NOTHING else usage.plus(author)


IMAGE_GENERATIONS = ImageGenerationsEndpoint()
IMAGE_EDITS = ImageEditsEndpoint()
IMAGE_VARIATIONS = ImageVariationsEndpoint()
