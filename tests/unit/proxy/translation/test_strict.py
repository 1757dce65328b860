"""What a strict reading lets through, and how it names what it refuses."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from sentinel.error import MissingParameter, UnsupportedParameter
from sentinel.proxy.translation.strict import given, object_of, read


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    a: int = 1


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: list[Inner]
    raw: Raw = Raw()


DECODER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"inner":[],"b":1}', "b"),
        (b'{"inner":[{},{"b":1}]}', "inner[1].b"),
        (b'{"inner":[{"a":"one"}]}', "inner[0].a"),
        (b'{"inner":[{"a` - at `$.b":1}]}', "inner[0].a` - at `$.b"),
    ],
)
def test_the_field_is_named(body: bytes, param: str) -> None:
    """Where it is, and what it is called."""
    with pytest.raises(UnsupportedParameter) as refused:
        read(DECODER, body)
    assert refused.value.param == param
    assert param in refused.value.message


def test_a_missing_field_is_named() -> None:
    """It is another error."""
    with pytest.raises(MissingParameter) as refused:
        read(DECODER, b"{}")
    assert refused.value.param == "inner"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", b"{}"), (" \n", b"{}"), ('{"a": 1e400}', b'{"a": 1e400}'), ("[]", None), ("{", None), ("[" * 9999, None)],
)
def test_an_object_in_a_text_keeps_its_bytes(text: str, expected: bytes | None) -> None:
    """Arguments of a call, which may be none."""
    found = object_of(text)
    assert (None if found is None else bytes(found)) == expected


@pytest.mark.parametrize(("body", "is_given"), [(b'{"inner":[]}', False), (b'{"inner":[],"raw":null}', False)])
def test_null_gives_nothing(body: bytes, *, is_given: bool) -> None:
    """As an absent field does."""
    assert given(read(DECODER, body).raw) is is_given


def test_anything_else_is_given() -> None:
    """Also what is empty."""
    assert given(read(DECODER, b'{"inner":[],"raw":{}}').raw)
