"""What Sentinel decodes of requests about images and sound, and of those to be moderated; the rest as in request.py."""

from typing import Annotated, ClassVar

from msgspec import Meta, Raw, Struct

from sentinel.tokens.request import ChoiceCount, ModelName, TokenLimit

# OpenAI takes 0.25 to 4; what is slower costs more.
Speed = Annotated[float, Meta(ge=0.25, le=4)]
FrameCount = Annotated[int, Meta(ge=0, le=1_000)]


class ModerationRequest(Struct, gc=False):
    """The body of POST /v1/moderations, as far as Sentinel decides on it."""

    model: ModelName = "omni-moderation-latest"
    input: Raw = Raw()
    stream: ClassVar[bool | None] = None


class Svg(Struct, gc=False):
    """Who writes an image in SVG."""

    model: ModelName | None = None


class InputImage(Struct, gc=False):
    """An image that is to be changed: at a URL, inline as a data URL, or kept by the provider."""

    image_url: str | None = None
    file_id: str | None = None


class ImageRequest(Struct, gc=False):
    """The body of POST /v1/images/generations and /v1/images/edits, as far as Sentinel decides on it."""

    model: ModelName
    prompt: str | None = None
    n: ChoiceCount | None = None
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    frame_count: FrameCount | None = None
    partial_images: TokenLimit | None = None
    stream: bool | None = None
    svg: Svg | None = None
    images: list[InputImage] | None = None
    mask: InputImage | None = None


class TranscriptFields(Struct, gc=False):
    """The fields of POST /v1/audio/transcriptions and /v1/audio/translations, as far as Sentinel decides on them."""

    model: ModelName
    prompt: str | None = None


class SpeechRequest(Struct, gc=False):
    """The body of POST /v1/audio/speech, as far as Sentinel decides on it."""

    model: ModelName
    input: str | None = None
    instructions: str | None = None
    response_format: str | None = None
    speed: Speed | None = None
    stream_format: str | None = None
