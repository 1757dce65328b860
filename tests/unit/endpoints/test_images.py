"""What is particular to images: what they can cost is bounded before, and told after.

About: `endpoints/upload.py`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sentinel.endpoints.endpoint import UNCHANGED
from sentinel.endpoints.form import HEAD_BYTES
from sentinel.endpoints.images import IMAGE_EDITS, IMAGE_GENERATIONS, IMAGE_VARIATIONS
from sentinel.error import InvalidForm, InvalidType, MissingParameter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import NOTHING, Usage
from tests.support.surface import form

COUNTER = TokenCounter()
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x02\x00\x00\x00\x02\x00" + b"\0" * HEAD_BYTES
TILE = 65 + 129
"""Of an image of 512 x 512 pixels."""


def read(**fields: Any) -> Any:
    return IMAGE_GENERATIONS.read(json.dumps({"model": "gpt-image-2", "prompt": "a red boat", **fields}).encode())


def edit(*fields: tuple[str, str]) -> Any:
    body, kind = form([("model", "gpt-image-2"), ("prompt", "a red boat"), *fields], "image", PNG)
    return IMAGE_EDITS.read_typed(body, kind.encode())


def test_the_prompt_is_counted_and_forgotten() -> None:
    """With the images that are to be changed; all that is decided later stays."""
    request = read(images=[{"image_url": "data:image/png;base64," + base64.b64encode(PNG).decode()}], mask={})
    assert IMAGE_GENERATIONS.count(request, COUNTER) == 3 + TILE + 65 + 4 * 129
    bound = IMAGE_GENERATIONS.bound(request)
    IMAGE_GENERATIONS.forget_prompt(request)
    assert (request.wanted.prompt, request.wanted.images) == (None, None)
    assert IMAGE_GENERATIONS.bound(request) == bound
    assert IMAGE_GENERATIONS.changes(request, bound, 5) is UNCHANGED
    assert IMAGE_GENERATIONS.changed(b"{}", request, UNCHANGED) == b"{}"


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"quality": "low"}, 710),
        ({}, 7_100),
        ({"n": 3, "quality": "low"}, 2_130),
        ({"partial_images": 2, "quality": "low"}, 710),
        ({"partial_images": 2, "quality": "low", "stream": True}, 910),
        ({"output_format": "gif", "quality": "low"}, 9 * 710),
        ({"output_format": "gif", "quality": "low", "frame_count": 2}, 2 * 710),
        ({"output_format": "svg", "quality": "low", "svg": {"model": "gpt-4o"}}, 710 + 16_384),
        ({"model": "dall-e-3"}, 0),
    ],
)
def test_the_most_that_they_can_cost_is_reserved(fields: dict[str, Any], most: int) -> None:
    """All of it, or the request is refused; a client that leaves has them made."""
    bound = IMAGE_GENERATIONS.bound(read(**fields))
    assert (bound.client_max, bound.default_max, bound.least_max) == (None, most, most)
    assert bound.hides_output == (most > 0)


def test_a_form_is_read_as_json_would_be() -> None:
    """With its files counted as images."""
    fields = [("n", "2"), ("stream", "true"), ("partial_images", "1"), ("quality", "low"), ("svg[model]", "gpt-5")]
    request, references = edit(*fields)
    assert (request.model, request.stream, references) == ("gpt-image-2", True, ())
    assert IMAGE_EDITS.count(request, COUNTER) == 3 + TILE
    assert IMAGE_EDITS.bound(request).default_max == 2 * (710 + 100)
    IMAGE_EDITS.forget_prompt(request)
    assert request.files == []


def test_an_edit_is_a_form_or_json_and_a_variation_a_form() -> None:
    """A variation needs no model."""
    body = b'{"model":"gpt-image-2","prompt":"x","images":[{"file_id":"file-1"}]}'
    request, (reference,) = IMAGE_EDITS.read_typed(body, b"application/json")
    assert (request.model, reference.id, reference.kind) == ("gpt-image-2", "file-1", "files")
    with pytest.raises(InvalidForm):
        IMAGE_VARIATIONS.read_typed(body, b"application/json")
    sent, kind = form([], "image", PNG)
    assert IMAGE_VARIATIONS.read_typed(sent, kind.encode())[0].model == "dall-e-2"


@pytest.mark.parametrize(
    ("name", "value"), [("n", "200"), ("n", "x"), ("n", "0"), ("partial_images", "-1"), ("frame_count", "2000")]
)
def test_a_number_that_cannot_be_is_named(name: str, value: str) -> None:
    """As in JSON."""
    with pytest.raises(InvalidType) as raised:
        edit((name, value))
    assert raised.value.param == name


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_what_is_missing_is_named(missing: str) -> None:
    """In JSON and in forms."""
    fields = {"model": "m", "prompt": "x"}
    del fields[missing]
    body, kind = form(fields.items(), "image")
    for sent, type_ in ((json.dumps(fields).encode(), b""), (body, kind.encode())):
        with pytest.raises(MissingParameter) as raised:
            IMAGE_EDITS.read_typed(sent, type_)
        assert raised.value.param == missing


def test_an_answer_tells_its_usage() -> None:
    """With that of who has written an SVG; an error costs nothing, and images without usage their input."""
    large = "A" * 200_000
    told = {"data": [{"b64_json": large}], "usage": {"input_tokens": 5, "output_tokens": 7}}
    reading = IMAGE_GENERATIONS.read_answer(json.dumps(told).encode())
    assert reading is not None
    assert (reading.usage, reading.is_generated) == (Usage(5, 7), True)
    reading = IMAGE_GENERATIONS.read_answer(
        json.dumps({**told, "svg_usage": {"input_tokens": 1, "output_tokens": 2}}).encode()
    )
    assert reading is not None
    assert reading.usage == Usage(6, 9)
    reading = IMAGE_GENERATIONS.read_answer(b'{"data":[{"url":"x"}]}')
    assert reading is not None
    assert (reading.usage, reading.is_generated) == (NOTHING, True)
    reading = IMAGE_GENERATIONS.read_answer(b'{"error":{"message":"no"}}')
    assert reading is not None
    assert (reading.failed, reading.is_generated) == (True, False)
    assert IMAGE_GENERATIONS.read_answer(b"nonsense") is None


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [(IMAGE_GENERATIONS, "image_generation.completed"), (IMAGE_EDITS, "image_edit.completed")],
)
def test_a_whole_answer_may_become_a_stream(endpoint: Any, kind: str) -> None:
    """An event for each image, with usage in the last; of that the meter reads what the answer told."""
    usage = {"input_tokens": 5, "output_tokens": 7}
    told = {"created": 1, "size": "auto", "data": [{"b64_json": "AA"}, {"b64_json": "BB"}, 7], "usage": usage}
    stream = endpoint.as_stream(json.dumps(told).encode())
    events = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
    assert [(event["type"], event["b64_json"], event.get("usage")) for event in events] == [
        (kind, "AA", None),
        (kind, "BB", usage),
    ]
    meter = IMAGE_GENERATIONS.meter(read(n=2), NO_SECRET)
    assert meter.feed(stream) + meter.done == stream
    assert meter.usage == Usage(5, 7)
    without = endpoint.as_stream(b'{"data":[{"url":"x"}]}')
    assert b"usage" not in without
    for odd in (b"nonsense", b'{"data":[]}', b'{"error":{"message":"no"}}'):
        assert endpoint.as_stream(odd).startswith(b'data: {"error":')
    assert endpoint.refusal_as_stream(400, b"no").startswith(b'data: {"error":')


def test_a_stream_is_held_to_no_limit() -> None:
    """All was reserved."""
    request = read(stream=True)
    with pytest.raises(NotImplementedError):
        IMAGE_GENERATIONS.ending(request, IMAGE_GENERATIONS.meter(request, NO_SECRET), NOTHING)
