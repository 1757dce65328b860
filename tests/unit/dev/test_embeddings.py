"""The simulator's vectors: of length 1, the same for the same text, coded as OpenAI codes them."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from sentinel.dev.embeddings import DIMENSIONS, answer, inputs_of


def vectors(given: Any, **fields: Any) -> list[Any]:
    body = {"model": "text-embedding-3-small", "input": given, **fields}
    return [one["embedding"] for one in answer(body, None)["data"]]


@pytest.mark.parametrize(
    ("given", "count"), [("hi", 1), (["hi", "ho"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["hi"], 1)]
)
def test_each_text_has_one(given: Any, count: int) -> None:
    """A list of token ids is one text."""
    assert len(inputs_of(given)) == len(vectors(given)) == count


def test_a_text_has_its_own() -> None:
    """Of the model's size, or of the size that is asked for."""
    first, second, again = vectors(["hi", "ho", "hi"])
    assert first == again
    assert first != second
    assert len(first) == DIMENSIONS["text-embedding-3-small"]
    assert math.isclose(math.hypot(*first), 1, rel_tol=1e-6)
    assert len(vectors("hi", dimensions=3)[0]) == 3


def test_base64_is_little_endian_floats() -> None:
    """As SDKs read them."""
    (coded,), (plain,) = vectors("hi", dimensions=4, encoding_format="base64"), vectors("hi", dimensions=4)
    assert struct.unpack("<4f", base64.b64decode(coded)) == pytest.approx(plain, rel=1e-6)


def test_usage_has_no_output() -> None:
    """Both numbers are those of the input."""
    body = {"model": "text-embedding-3-small", "input": "hi", "dimensions": 1}
    assert answer(body, 7)["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert "usage" not in answer(body, None)
