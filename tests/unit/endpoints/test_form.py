"""Forms: what is decided on is found wherever it stands, and what two readers could take differently is refused."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipart import MultipartParser

from sentinel.endpoints.form import HEAD_BYTES, MOST_PARTS, Form, is_form, read_form
from sentinel.endpoints.references import MOST_REFERENCES, ReferenceFields
from sentinel.error import InvalidForm, InvalidJson, InvalidType, MissingParameter

KIND = b"multipart/form-data; boundary=b"
DECIDED = frozenset(("model", "stream", "n", "prompt"))
FILES = ReferenceFields({"file_id": "files"})


def part(name: str, value: bytes = b"x", more: str = "", headers: str = "") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n%b\r\n%b\r\n' % (
        *(name.encode(), more.encode(), headers.encode()),
        value,
    )


def body(*parts: bytes) -> bytes:
    return b"".join([*parts, b"--b--\r\n"])


def read(*parts: bytes) -> Form:
    return read_form(body(*parts), KIND, DECIDED)


def refused(sent: bytes, kind: bytes = KIND) -> str | None:
    with pytest.raises(InvalidForm) as raised:
        read_form(sent, kind, DECIDED)
    assert len(raised.value.message) < 300
    return raised.value.param


@pytest.mark.parametrize("behind", [b"x", b"\r\nx", b"\r\n" + part("model", b"other") + b"--b--\r\n", b"-", b"\0"])
@pytest.mark.parametrize("parts", [(), (part("model"),)])
def test_what_is_behind_its_end_refuses_a_form(parts: tuple[bytes, ...], behind: bytes) -> None:
    """Another reader may take it for more of the form; in whatever pieces it is read."""
    for size in (0, 65_536 - len(body(part("prompt"), *parts))):
        filler = (part("prompt", b"x" * size),) if size else ()
        assert refused(body(*filler, *parts).removesuffix(b"\r\n") + behind) is None


@pytest.mark.parametrize("ends", [b"", b"\r\n", b"\r\n\r\n"])
def test_line_ends_behind_a_form_are_none_of_it(ends: bytes) -> None:
    """Wherever the pieces in which it is read are cut."""
    least = len(body(part("prompt", b"")))
    for size in range(65_536 - 8, 65_536 + 8):
        sent = body(part("prompt", b"x" * (size - least))).removesuffix(b"\r\n") + ends
        assert len(read_form(sent, KIND, DECIDED).needed("prompt")) == size - least


def test_fields_are_found_wherever_they_stand() -> None:
    """Before a file and behind it, in any order; a file's beginning and size are known."""
    sound = b"RIFF" + b"\r\n--x" * 20_000
    form = read(part("n", b"3"), part("file", sound, '; filename="a.wav"'), part("model", "gpt-é".encode()))
    assert (form.text("model"), form.number("n"), form.text("prompt")) == ("gpt-é", 3, None)
    (file,) = form.files
    assert (file.name, file.size, file.head) == ("file", len(sound), sound[:HEAD_BYTES])


@pytest.mark.parametrize(
    ("value", "truth"), [("true", True), ("false", False), ("True", True), ("0", False), ("1", True), ("", None)]
)
def test_yes_and_no(value: str, truth: bool | None) -> None:
    """As forms write them."""
    assert read(part("stream", value.encode())).truth("stream") is truth


@pytest.mark.parametrize("value", ["yes", "on", "TRUE", " true", "null"])
def test_what_may_be_either_is_refused(value: str) -> None:
    """Providers differ about these."""
    with pytest.raises(InvalidType) as raised:
        read(part("stream", value.encode())).truth("stream")
    assert raised.value.param == "stream"


@pytest.mark.parametrize("value", ["-1", "1.5", "x", "9" * 10, "²", "1 "])
def test_a_number_is_of_digits(value: str) -> None:
    """And of few."""
    with pytest.raises(InvalidType) as raised:
        read(part("n", value.encode())).number("n")
    assert raised.value.param == "n"


@pytest.mark.parametrize("parts", [[], [part("model", b"")]])
def test_what_is_needed_is_named(parts: list[bytes]) -> None:
    """Absent or empty."""
    with pytest.raises(MissingParameter) as raised:
        read(part("n", b"1"), *parts).needed("model")
    assert raised.value.param == "model"


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([part("model"), part("model")], "model"),
        ([part("model[]")], "model"),
        ([part("model[0]")], "model"),
        ([part("model", b"x", '; filename="m"')], "model"),
        ([part("model", b"\xff")], "model"),
        ([part("")], None),
        ([part("x", headers="Content-Transfer-Encoding: base64\r\n")], "x"),
        ([part("x", headers='Content-Disposition: form-data; name="model"\r\n')], "model"),
        ([part("x", headers="no header\r\n")], None),
        ([b"preamble\r\n", part("model")], None),
        ([part("x" * 3_000), part("x" * 3_000, headers="no header\r\n")], "x" * 96),
        ([part("x")] * (MOST_PARTS + 1), "x"),
        ([b'--b\r\nContent-Type: text/plain; name="x"\r\n\r\nx\r\n'], None),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(parts: list[bytes], param: str | None) -> None:
    """The error names the field, if it is one."""
    assert refused(body(*parts)) == param


@pytest.mark.parametrize("end", [0, 1, 20, len(part("model"))])
def test_a_body_without_its_end_is_refused(end: int) -> None:
    """Wherever it breaks off."""
    refused(part("model")[:end])


def test_what_follows_the_end_is_refused() -> None:
    """Another reader could look at it."""
    refused(body(part("x")) + b"x" * 70_000 + body(part("model")))


@pytest.mark.parametrize(
    "kind",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/mixed; boundary=b",
        b"multipart/form-data; boundary=b; boundary=c",
    ],
)
def test_a_boundary_is_needed(kind: bytes) -> None:
    """One, and only one."""
    assert refused(body(part("x")), kind) == "content-type"
    assert is_form(kind) == kind.startswith(b"multipart/form-data")


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("file_id", "file-1", ["file-1"]),
        ("file_id[]", "file-1", ["file-1"]),
        ("images[0][file_id]", "file-1", ["file-1"]),
        ("images", '[{"file_id":"file-1"},{"file_id":"file-2"}]', ["file-1", "file-2"]),
        ("images", ' {"mask":{"file_id":"file-1"}}', ["file-1"]),
        ("prompt", "{not json", []),
        ("prompt", "file_id", []),
    ],
)
def test_objects_are_found_that_it_names(name: str, value: str, found: list[str]) -> None:
    """By their fields, in brackets, and in JSON."""
    references = read(part(name, value.encode())).references(FILES)
    assert [reference.id for reference in references] == found


def test_objects_are_bounded() -> None:
    """Each is a question to Redis."""
    many = ",".join(['{"file_id":"f"}'] * (MOST_REFERENCES // 2 + 1)).encode()
    with pytest.raises(InvalidType):
        read(*[part("a", b"[%b]" % many)] * 2).references(FILES)
    with pytest.raises(InvalidJson):
        read(part("a", b'{"file_id":' + b"[" * 100_000)).references(FILES)


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z]{1,8}(\[[a-z0-9]{0,3}\])?", fullmatch=True),
            st.binary(max_size=50).filter(lambda value: b"--b" not in value),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_another_reader_finds_the_same(parts: list[tuple[str, bytes, bool]]) -> None:
    """Whatever is taken, the library's tolerant parser takes alike."""
    sent = body(*(part(name, value, '; filename="f"' if is_file else "") for name, value, is_file in parts))
    try:
        form = read_form(sent, KIND, DECIDED)
    except InvalidForm:
        return
    others: list[Any] = list(MultipartParser(io.BytesIO(sent), "b"))
    texts = [(other.name, other.raw.decode()) for other in others if other.filename is None]
    files = [(other.name, other.size) for other in others if other.filename is not None]
    assert (form.texts, [(file.name, file.size) for file in form.files]) == (texts, files)
    for other in others:
        other.close()


def test_a_text_that_is_no_json_refers_to_nothing() -> None:
    """Though it has the name of a field in it."""
    assert read(part("prompt", b"{file_id")).references(FILES) == ()
