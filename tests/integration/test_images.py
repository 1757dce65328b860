"""POST /v1/images/*, with the official SDK and without: what reaches the provider, what is admitted, what is booked.

About: `endpoints/images.py`, `endpoints/encoded_stream.py`, `dev/images.py`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest

from sentinel.dev.images import picture
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import EDITS, GENERATIONS, form, post, send

pytestmark = pytest.mark.usefixtures("no_faults")

MODEL = "gpt-image-2"
PNG = base64.b64decode(picture("given", 5_000))
MEGABYTES = 5_000_000


def asked(prompt: str = "a red boat", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "quality": "low", **fields}


def client(sentinel: SentinelProcess, token: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sentinel.url}/v1", api_key=token, max_retries=0, timeout=30)


async def test_the_sdk_gets_its_images(stack: Stack, sentinel: SentinelProcess) -> None:
    """Whole, from both clients; booked is what the provider tells."""
    _, token = stack.user("images@corp.test")
    async with sdk(sentinel, token) as api:
        answer = await api.images.generate(**asked(n=2))
    assert [len(base64.b64decode(image.b64_json or "")) for image in answer.data or []] == [2_000] * 2
    with client(sentinel, token) as own:
        assert len(own.images.generate(**asked()).data or []) == 1
    prompt = 3
    booked = {"ai_requests": 2, "ai_input_tokens": 2 * prompt, "ai_output_tokens": 3 * 272}
    assert stack.booked(2, "images@corp.test") == booked


@pytest.mark.parametrize("size", [2_000, MEGABYTES])
async def test_the_sdk_gets_a_stream(stack: Stack, sentinel: SentinelProcess, size: int) -> None:
    """Partial images and the whole one, also where each is one event of megabytes; usage is in the last."""
    email = f"images-{size}@corp.test"
    _, token = stack.user(email, limits={"ai_output_tokens": 50_000})
    async with sdk(sentinel, token) as api:
        stream = await api.images.generate(**asked(f"a boat [[big_event={size}]]"), partial_images=2, stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert {len(base64.b64decode(event.b64_json)) for event in events} == {size}
    assert stack.booked(1, email)["ai_output_tokens"] == 272 + 2 * 100


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sdk_edits(stack: Stack, sentinel: SentinelProcess, stream: bool) -> None:
    """Several images of megabytes, in a form that reaches the provider byte for byte."""
    email = f"edits-{stream}@corp.test"
    _, token = stack.user(email)
    stack.simulators.openai.calls.clear()
    images = [("one.png", PNG + b"\0" * 10_000_000), ("two.png", PNG + b"\0" * 10_000_000)]
    async with sdk(sentinel, token) as api:
        answer: Any = await api.images.edit(**asked(), image=images, stream=stream)
        kinds = [event.type async for event in answer] if stream else [len(answer.data)]
    assert kinds == (["image_edit.completed"] if stream else [1])
    (call,) = (call for call in stack.simulators.openai.calls if call.path == EDITS)
    assert call.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert call.raw.count(images[0][1]) >= 1
    assert stack.booked(1, email) == {"ai_requests": 1, "ai_input_tokens": 3 + 2 * 323, "ai_output_tokens": 272}


async def test_an_edit_may_be_json(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """It names its images; a file that nobody has created through us is nobody's."""
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    answer = post(sentinel, token, asked(images=[{"image_url": url}]), EDITS)
    assert (answer.status, len(answer.json["data"])) == (200, 1)
    assert post(sentinel, token, asked(images=[{"file_id": "file-1"}]), EDITS).is_error(
        404, "not_found", param="images[0].file_id"
    )


def test_a_form_may_name_nobodys_file_either(sentinel: SentinelProcess, token: str) -> None:
    """In brackets, or as JSON in a field."""
    named = (
        ("images[0][file_id]", "file-1", "images[0][file_id]"),
        ("images", '[{"file_id":"file-1"}]', "[0].file_id"),
    )
    for name, value, param in named:
        body, kind = form([("model", MODEL), ("prompt", "x"), (name, value)])
        answer = send(sentinel, "POST", EDITS, token, body, Content_Type=kind)
        assert answer.is_error(404, "not_found", param=param)


async def test_the_sdk_gets_variations(stack: Stack, sentinel: SentinelProcess) -> None:
    """Of a model that tells no usage: one request."""
    _, token = stack.user("variations@corp.test")
    async with sdk(sentinel, token) as api:
        with pytest.deprecated_call():
            answer = await api.images.create_variation(image=("a.png", PNG), n=2)
    assert len(answer.data or []) == 2
    assert stack.booked(1, "variations@corp.test")["ai_output_tokens"] == 0


def test_what_is_left_must_do_for_all_images(stack: Stack, sentinel: SentinelProcess) -> None:
    """The most that they can cost is reserved, or the request is refused: nobody could hold the provider to less."""
    _, token = stack.user("poor-images@corp.test", limits={"ai_output_tokens": 2_000})
    assert post(sentinel, token, asked(n=3), GENERATIONS).is_error(429, "insufficient_quota", "insufficient_quota")
    assert post(sentinel, token, asked(n=2), GENERATIONS).status == 200
    assert post(sentinel, token, asked(n=2, stream=True), GENERATIONS).status == 200
    assert post(sentinel, token, asked(quality="max"), GENERATIONS).status == 429


def test_who_leaves_a_stream_pays_for_what_was_begun(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess
) -> None:
    """A partial image has come, and no usage: charged is the most that the image can cost."""
    email = "leaves-images@corp.test"
    _, token = stack.user(email)
    provider.streams(image_event("partial_image"), cut=True)
    assert post(scripted, token, asked(stream=True), GENERATIONS).status == 200
    assert stack.booked(1, email)["ai_output_tokens"] == 710


def test_bytes_pass(stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess) -> None:
    """In whatever pieces a stream comes, and whatever line ends it has."""
    email = "bytes-images@corp.test"
    _, token = stack.user(email)
    sent = image_event("partial_image", 90) + b": note\n\n" + image_event("completed", 90, usage=True)
    for number, whole in enumerate((sent, sent.replace(b"\n", b"\r\n"), sent + b"data: [DONE]\n\n"), 1):
        for step in (7, 100, len(whole)):
            provider.streams(*(whole[at : at + step] for at in range(0, len(whole), step)))
            assert post(scripted, token, asked(stream=True), GENERATIONS).body == whole
        assert stack.booked(3 * number, email)["ai_output_tokens"] == 3 * number * 17


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"model": MODEL}, "missing_required_parameter", "prompt"),
        ({"prompt": "x"}, "missing_required_parameter", "model"),
        (asked(n=0), "invalid_type", "n"),
        (b'{"model":"m","prompt":"a","n":1,"n":9}', "invalid_json", "n"),
    ],
)
def test_what_is_wrong_is_named(sentinel: SentinelProcess, token: str, body: Any, code: str, param: str) -> None:
    """Before anything is asked or spent."""
    assert post(sentinel, token, body, GENERATIONS).is_error(400, code, param=param)


def image_event(kind: str, size: int = 3_000, *, usage: bool = False) -> bytes:
    told = {"usage": {"input_tokens": 5, "output_tokens": 17, "total_tokens": 22}} if usage else {}
    fields = {"type": f"image_generation.{kind}", "b64_json": picture("x", size), **told}
    return b"event: image_generation.%b\ndata: %b\n\n" % (kind.encode(), json.dumps(fields).encode())
