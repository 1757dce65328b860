"""OpenAI's embeddings: a vector of length 1 for each text, the same for the same text, far from those of others."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
    "gemini-embedding-001": 3072,
}


def inputs_of(given: Any) -> list[str | list[int]]:
    """What gets a vector each: texts, or lists of token ids."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return list(given)


def answer(body: dict[str, Any], prompt_tokens: int | None) -> dict[str, Any]:
    """The whole answer. prompt_tokens: what usage tells, None for an answer without usage."""
    size = body.get("dimensions") or DIMENSIONS[body["model"]]
    coded = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if coded else vector}
        for index, vector in enumerate(_vector(one, size) for one in inputs_of(body["input"]))
    ]
    told = {} if prompt_tokens is None else {"usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}}
    return {"object": "list", "data": data, "model": body["model"], **told}


def _vector(text: str | list[int], size: int) -> list[float]:
    bits = hashlib.shake_256(repr(text).encode()).digest(2 * size)
    numbers = [number / 2**15 for number in struct.unpack(f"<{size}h", bits)]
    length = math.hypot(*numbers)
    return [round(number / length, 9) for number in numbers]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
