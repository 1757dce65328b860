"""The input tokens of requests in Gemini's format: nothing that a part carries is free."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest

from sentinel.tokens.bpe import count_for
from sentinel.tokens.gemini import counted_tokens, embedded_tokens, generate_tokens
from sentinel.tokens.gemini_request import CountBody, EmbedBody, GenerateBody

EXACT, OLD, NEW = "gpt-4o", "gemini-2.5-flash", "gemini-3-pro-preview"
FRAME = 3 + 4
"""Of a request, and of a turn."""


def tokens(parts: Any, model: str = EXACT, **fields: Any) -> int:
    body = json.dumps({"contents": [{"parts": parts}], **fields}).encode()
    return generate_tokens(msgspec.json.decode(body, type=GenerateBody), model)


def text(words: str) -> int:
    return count_for(EXACT)(words)


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", width, height)
    return base64.b64encode(head + b"\x08\x02\x00\x00\x00").decode()


def test_text() -> None:
    """As OpenAI's models count it, whose is whose."""
    words = "The river bends toward an old stone bridge where lights turn slowly"
    assert tokens([{"text": words}]) == tokens([{"text": words}], OLD) == FRAME + text(words)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"text": None}, 0),
        ({"text": "hi", "thought": True, "thoughtSignature": "x" * 38}, text("hi") + 10),
        ({"functionCall": {"name": "f", "args": {"a": 1}}}, text('{"name":"f","args":{"a":1}}')),
        ({"functionResponse": {"name": "f", "response": {"b": 2}}}, text('"f"') + text('{"b":2}')),
        ({"function_response": {"parts": [{"text": "hi"}]}}, text("hi")),
        ({"functionResponse": {"parts": [{"text": 5}]}}, text("5")),
        ({"functionResponse": {"parts": "hi"}}, text('{"parts":"hi"}')),
        ({"functionResponse": 5}, text("5")),
        ({"ofTomorrow": {"words": "many more"}}, text('{"words":"many more"}')),
        ({"ofTomorrow": None}, 0),
        ({"inlineData": 5}, text("5")),
        (
            {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode(b"Say hello").decode()}},
            text("Say hello"),
        ),
        ({"inlineData": {"mimeType": "text/plain", "data": "%%"}}, 0),
        ({"inlineData": {"mimeType": "application/pdf", "data": "x" * 160_000}}, 10_000),
        ({"inlineData": {}}, 3_000),
        ({"inlineData": {"mimeType": "audio/ogg", "data": "x" * 80_000}}, 960),
        ({"inlineData": {"mime_type": "VIDEO/mp4", "data": "x" * 125_000}}, 900),
        ({"fileData": {"mimeType": "video/mp4", "fileUri": "https://x"}}, 258_000),
        ({"fileData": 5}, 258_000),
        ({"file_data": {"mime_type": "image/png", "file_uri": "https://x"}}, 24 * 258),
    ],
)
def test_parts(part: dict[str, Any], expected: int) -> None:
    """Whatever is in them, by the rules for it, or as the JSON that it is."""
    assert tokens([part]) == FRAME + expected


@pytest.mark.parametrize(
    ("width", "height", "tiles"),
    [(384, 384, 1), (1, 1, 1), (960, 540, 6), (768, 768, 4), (3072, 3072, 16), (6144, 6144, 16), (3072, 400, 24)],
)
def test_pictures_are_cut_into_tiles(width: int, height: int, tiles: int) -> None:
    """960 x 540 is Google's own example."""
    part = {"inlineData": {"mimeType": "image/png", "data": png(width, height)}}
    assert tokens([part], OLD) == FRAME + tiles * 258


def test_pictures_of_which_nothing_is_known() -> None:
    """Cost what the largest does; newer models have one price for all, and a higher one where it is asked for."""
    part = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    assert tokens([part], OLD) == tokens([{"inlineData": {"mimeType": "image/png"}}], OLD) == FRAME + 24 * 258
    assert tokens([part], NEW) == FRAME + 1_120
    assert tokens([{**part, "mediaResolution": {}}], NEW) == FRAME + 2_240 + text("{}")


def test_base64_that_is_safe_in_urls() -> None:
    """Google reads it as well."""
    safe = png(960, 63_999).replace("+", "-").replace("/", "_")
    assert "-" in safe or "_" in safe
    part = {"inlineData": {"mimeType": "image/png", "data": safe}}
    assert tokens([part], OLD) < FRAME + 24 * 258 + 1


def test_answers_of_functions_are_looked_into() -> None:
    """But not for ever."""
    part: dict[str, Any] = {"text": "hi"}
    for _ in range(5):
        part = {"functionResponse": {"parts": [part]}}
    assert tokens([part]) > FRAME + text("hi")


def test_all_else_that_a_model_is_told() -> None:
    """System instruction, tools, schemas."""
    tools = [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}]
    config = {"responseSchema": {"type": "STRING"}, "responseJsonSchema": None, "maxOutputTokens": 5}
    found = tokens(
        [{"text": "hi"}],
        systemInstruction={"parts": [{"text": "Be brief"}]},
        tools=tools,
        toolConfig={"a": 1},
        generationConfig=config,
    )
    told = [json.dumps(value, separators=(",", ":")) for value in (tools, {"a": 1}, config["responseSchema"])]
    assert found == FRAME + 4 + sum(map(text, ["hi", "Be brief", *told]))


def test_what_is_only_counted_or_embedded() -> None:
    """By the same rules."""
    whole = {"contents": {"parts": {"text": "hi"}}}
    body = msgspec.json.decode(json.dumps({**whole, "generateContentRequest": whole}).encode(), type=CountBody)
    assert counted_tokens(body, EXACT) == 2 * (FRAME + text("hi"))
    each = msgspec.json.decode(b'{"content":{"parts":[{"text":"hi"}]},"title":"A title"}', type=EmbedBody)
    assert embedded_tokens([each, EmbedBody()], EXACT) == FRAME + text("hi") + text("A title") + 3
