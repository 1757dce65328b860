"""OpenAI's images: each the same for the same prompt, of the size that a directive says, and of the published price."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec

from sentinel.dev.plan import EVENTS, Asked, Plan, event
from sentinel.dev.reply import encoding_of
from sentinel.dev.validation import Refused, missing

_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x04\x00\x00\x00\x04\x00\x08\x06\x00\x00\x00"
_USUAL_BYTES = 2_000
_TOKENS = {"low": 272, "medium": 1_056, "high": 4_160, "auto": 1_056}
_PARTIAL_TOKENS = 100
_INPUT_IMAGE_TOKENS = 323
_CREATED = 1_794_000_000
_MOST_IMAGES = 10


def generation(asked: Asked) -> Plan:
    """Images of a prompt. Raises Refused."""
    if not isinstance(asked.fields.get("prompt"), str):
        raise missing("prompt")
    return _plan(asked, "image_generation", 0)


def edit(asked: Asked) -> Plan:
    """Images that are changed. Raises Refused."""
    named = asked.fields.get("images") or []
    if not asked.files and not named:
        raise missing("image")
    if not isinstance(asked.fields.get("prompt"), str):
        raise missing("prompt")
    return _plan(asked, "image_edit", len(asked.files) + len(named))


def variation(asked: Asked) -> Plan:
    """Images like another. Raises Refused."""
    if len(asked.files) != 1:
        raise missing("image")
    return _plan(asked, "image_variation", 1)


def _plan(asked: Asked, kind: str, given: int) -> Plan:
    fields, directive = asked.fields, asked.directive
    count = fields.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= _MOST_IMAGES:
        raise Refused(400, f"Invalid 'n': expected 1 to {_MOST_IMAGES}.", param="n")
    quality = fields.get("quality") or "auto"
    if quality not in _TOKENS:
        raise Refused(400, f"Invalid value: '{quality}'.", param="quality", code="invalid_value")
    partial = int(fields.get("partial_images") or 0) if fields.get("stream") else 0
    prompt = encoding_of("gpt-4o").count(asked.text) + given * _INPUT_IMAGE_TOKENS
    output = count * (_TOKENS[quality] + partial * _PARTIAL_TOKENS)
    if asked.model.startswith("dall-e"):
        prompt, output, usage = 0, 0, None
    else:
        usage = _usage(prompt, output, given)
    told = {} if directive.no_usage or usage is None else {"usage": usage}
    common = {"background": "opaque", "output_format": "png", "quality": quality, "size": "1024x1024"}
    pictures = [picture(f"{asked.text} {number}", directive.big_event or _USUAL_BYTES) for number in range(count)]
    if not fields.get("stream"):
        data = [{"b64_json": each} for each in pictures]
        return Plan(prompt, output, msgspec.json.encode({"created": _CREATED, **common, "data": data, **told}))
    pieces = [
        event(f"{kind}.partial_image", b64_json=pictures[0], partial_image_index=number, created_at=_CREATED, **common)
        for number in range(partial)
    ]
    for number, each in enumerate(pictures):
        last = told if number == count - 1 else {}
        pieces.append(event(f"{kind}.completed", b64_json=each, created_at=_CREATED, **common, **last))
    return Plan(prompt, output, None, tuple(pieces), EVENTS)


def picture(seed: str, size: int) -> str:
    """So many bytes in base64, which begin as a PNG does."""
    noise = hashlib.sha256(seed.encode()).digest()
    return base64.b64encode((_PNG + noise * (size // len(noise) + 1))[:size]).decode()


def _usage(prompt: int, output: int, given: int) -> dict[str, Any]:
    images = given * _INPUT_IMAGE_TOKENS
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"image_tokens": images, "text_tokens": prompt - images},
        "output_tokens": output,
        "total_tokens": prompt + output,
    }
