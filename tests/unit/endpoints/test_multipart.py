"""Forms that are looked at while they pass: cut anywhere they are read alike, and no byte is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.multipart import MOST_FIELD_BYTES, MultipartReader, boundary_of
from sentinel.endpoints.objects import FIELDS
from sentinel.error import InvalidType


def part(disposition: str, value: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers, "", ""]
    return b"--x\r\n" + "\r\n".join(lines).encode() + value + b"\r\n"


FILE = part('name="file"; filename="a;b.bin"', b"\r\n--\r\n-x\r\n--y\r" * 40, "Content-Type: a/b")
FORM = b"".join(
    [
        part('name="purpose"', b"batch"),
        FILE,
        part('name="file_id"', b" f1 "),
        part("name=file_ids[0]", b"f2"),
        part('name="session[new_id]"', b"f3"),
        part('name="tools"', b'[{"vector_store_ids": ["v1"]}]'),
        part('name="video"', b'{"id": "v2"}'),
        part('name="data"; filename="a.json"', b'{"file_id": "f4"}', "Content-Type: application/json"),
        part('name="video[id]"', b"v3"),
        part('name="characters[0][id]"', b"c1"),
        part('name="data[file_id][x]"', b"f5"),
        part('name="input.file_id"', b"f6"),
        part('name="file_ids[0]"', b'["f7"]'),
        part('name="metadata"', b'{"file_id": "mine"}'),
        part('name="metadata[file_id]"', b"mine"),
        part('name="text"', b"{no JSON"),
        part('name="empty"', b""),
    ]
)
NAMED = [("f1", True), ("f2", True), ("f3", False), ("v1", True), ("v2", True), ("f4", True)]
NAMED += [("v3", True), ("c1", True), ("f5", True), ("f6", True), ("f7", True)]


def read(pieces: list[bytes]) -> tuple[bytes, list[tuple[str, bool]]]:
    """What has passed, and what was named; nothing passes before what it names was told."""
    reader, passed, named = MultipartReader(b"x", FIELDS), b"", list[tuple[str, bool]]()
    for piece in pieces:
        out = reader.feed(piece)
        named += [(each.id, each.is_known) for each in reader.named]
        passed += out
        for id_, _ in NAMED:
            assert id_.encode() not in passed or id_ in {each for each, _ in named}
    reader.end()
    return passed + reader.rest(), named


@given(st.lists(st.integers(0, len(FORM) + 9), max_size=12))
def test_cut_anywhere(cuts: list[int]) -> None:
    """The same bytes, the same names."""
    form = FORM + b"--x--\r\n"
    ends = [0, *sorted(cuts), len(form)]
    assert read([form[a:b] for a, b in pairwise(ends)]) == (form, NAMED)


@pytest.mark.parametrize("end", [b"--x--", b"--x--\r\n"])
def test_byte_by_byte(end: bytes) -> None:
    """The last line end may be missing."""
    assert read([bytes([byte]) for byte in FORM + end]) == (FORM + end, NAMED)


def test_an_empty_form() -> None:
    """Has no part."""
    assert read([b"--x--\r\n"]) == (b"--x--\r\n", [])


def test_a_long_text() -> None:
    """Is not held for ever; an id has no such length."""
    text = part('name="prompt"', b"word " * MOST_FIELD_BYTES) + b"--x--\r\n"
    assert read([text[n : n + 1000] for n in range(0, len(text), 1000)]) == (text, [])
    reader = MultipartReader(b"x", FIELDS)
    with pytest.raises(InvalidType):
        reader.feed(part('name="file_id"', b"x" * (MOST_FIELD_BYTES + 1))[:-2])


@pytest.mark.parametrize(
    "form",
    [
        b"preamble--x\r\n" + FORM,
        b"\r\n--x\r\n",
        b"--y\r\n" + FORM,
        b"--x \r\n",
        FILE + b"--x--\r\nepilogue",
        FILE + b"--x--e",
        part('name="a"; name="b"', b""),
        part("name*=UTF-8''file_id", b""),
        part('filename="a"', b""),
        part('name="a\\"b"', b""),
        part('name="a" x', b""),
        part('name="a"', b"", "Content-Transfer-Encoding: base64"),
        part('name="a"', b"", "Content-Disposition: form-data; name=b"),
        part('name="a"', b"", "X : y"),
        part('name="a"', b"", " folded"),
        part('name="a"', b"", "no colon"),
        part('name="a"', b"", "X: a\nb"),
        b"--x\r\nA: " + b"a" * 20_000,
        part('name="file_id"', b"{no JSON") + b"--x--",
        part('name="tools"', b"{file_id: 'f'}") + b"--x--",
    ],
)
def test_what_could_be_read_otherwise(form: bytes) -> None:
    """Is refused."""
    reader = MultipartReader(b"x", FIELDS)
    with pytest.raises(InvalidType):
        reader.feed(form)


@pytest.mark.parametrize("form", [b"", b"--x", FILE, FILE + b"--x", FILE + b"--x--\r"])
def test_what_has_no_end(form: bytes) -> None:
    """Is refused as well."""
    reader = MultipartReader(b"x", FIELDS)
    reader.feed(form)
    with pytest.raises(InvalidType):
        reader.end()


@pytest.mark.parametrize(
    ("type_", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b' Multipart/Form-Data ;boundary="a b" ', b"a b"),
        (b"application/json", None),
        (b"", None),
    ],
)
def test_the_boundary(type_: bytes, boundary: bytes | None) -> None:
    """Of this one type."""
    assert boundary_of(type_) == boundary


@pytest.mark.parametrize(
    "type_",
    [
        b"multipart/form-data",
        b"multipart/mixed; boundary=x",
        b"multipart/form-data; boundary=x; boundary=y",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; charset=utf-8; boundary=x",
        b"multipart/form-data; boundary=" + b"x" * 80,
    ],
)
def test_no_boundary(type_: bytes) -> None:
    """Or more than one reader finds."""
    with pytest.raises(InvalidType):
        boundary_of(type_)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_models_of_a_form(size: int) -> None:
    """In a field, in JSON, also one that is called a file; found where they are looked for alone."""
    body = b"".join(
        [
            part('name="model"', b" m1 "),
            part('name="session[Model]"', b"m2"),
            part('name="tools"', b'[{"model": "m3"}]'),
            part('name="model"; filename="m"', b"m4"),
            part('name="metadata[model]"', b"mine"),
            part('name="prompt"', b"[a model walks]"),
            b"--x--\r\n",
        ]
    )
    found, plain = MultipartReader(b"x", FIELDS, finds_models=True), MultipartReader(b"x", FIELDS)
    for reader in (found, plain):
        out = b"".join(reader.feed(body[start : start + size]) for start in range(0, len(body), size))
        reader.end()
        assert out + reader.rest() == body
    assert found.models.keys() == {"m1", "m2", "m3", "m4"}
    assert plain.models == {}


def test_a_model_that_is_too_long() -> None:
    """Nobody could say whether it is one."""
    reader = MultipartReader(b"x", FIELDS, finds_models=True)
    with pytest.raises(InvalidType, match="'model' is too long"):
        reader.feed(part('name="model"; filename="m"', b"m" * (MOST_FIELD_BYTES + 100)))
