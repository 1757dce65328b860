"""Bodies in multipart/form-data, as uploads come: what is decided on is found in them, and their bytes are sent on.

What we judge must be what the provider obeys, so a body that two readers could take differently is refused: a field
twice, one of ours as a file or in brackets, text in front of the first part or behind the last, a part without a name.
Source: RFC 7578; the parser is `multipart`, in its strict mode.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from msgspec import Struct
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from sentinel.endpoints.references import MOST_REFERENCES, Reference, ReferenceFields
from sentinel.error import InvalidForm, InvalidType, MissingParameter

FORM: Final = "multipart/form-data"
MOST_PARTS: Final = 256
"""The largest of real forms: 16 images, and a few fields."""
HEAD_BYTES: Final = 64 * 1024
"""Of each file, to learn what it is."""

_STEP_BYTES: Final = 64 * 1024
_MOST_HEADER_BYTES: Final = 4 * 1024
_TRUTHS: Final = {"true": True, "false": False, "True": True, "False": False, "1": True, "0": False}
_MOST_DIGITS: Final = 9
_MOST_NAMED: Final = 96
"""Characters of a name in a message of ours; those that are decided on are shorter."""


class FormFile(Struct, gc=False):
    """A file in a form. head: its first bytes."""

    name: str
    size: int = 0
    head: bytes = b""


class Form(Struct, gc=False):
    """What a form has. texts: the fields that are no files, by name, in their order."""

    texts: list[tuple[str, str]] = []
    files: list[FormFile] = []

    def text(self, name: str) -> str | None:
        """The value of a field that comes once; None where it does not come."""
        return next((value for key, value in self.texts if key == name), None)

    def truth(self, name: str) -> bool | None:
        """The same as yes or no. Raises InvalidType."""
        value = self.text(name) or None
        if value is not None and value not in _TRUTHS:
            raise InvalidType(f"Invalid type for '{name}': Expected `true` or `false`.", param=name)
        return None if value is None else _TRUTHS[value]

    def number(self, name: str) -> int | None:
        """The same as a number. Raises InvalidType."""
        value = self.text(name) or None
        if value is not None and not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
            raise InvalidType(f"Invalid type for '{name}': Expected a number.", param=name)
        return None if value is None else int(value)

    def needed(self, name: str) -> str:
        """The same, which must be there. Raises MissingParameter."""
        value = self.text(name)
        if not value:
            raise MissingParameter(f"Missing required parameter: '{name}'.", param=name)
        return value

    def references(self, ids: ReferenceFields) -> tuple[Reference, ...]:
        """The objects of a provider that it names: fields in brackets are those of objects, and JSON may be in each.

        Raises InvalidJson, InvalidType.
        """
        found: list[Reference] = []
        for name, value in self.texts:
            found += ids.of_field(
                name.rstrip("]").rpartition("[")[2] or name.partition("[")[0], value, name[:_MOST_NAMED]
            )
            if value.lstrip()[:1] in ("{", "["):
                found += ids.found_in_text(value)
            if len(found) > MOST_REFERENCES:
                raise InvalidType(f"The request names more than {MOST_REFERENCES:,} objects by their ids.", param=name)
        return tuple(found)


def is_form(content_type: bytes) -> bool:
    """Whether a body of this type is a form."""
    return content_type.partition(b";")[0].strip().lower() == FORM.encode()


def read_form(body: bytes, content_type: bytes, decided: Collection[str]) -> Form:
    """The form in a body. decided: the fields that are decided on. Raises InvalidForm, which names the field."""
    boundary = boundary_of(content_type)
    parser = PushMultipartParser(
        boundary,
        max_header_size=_MOST_HEADER_BYTES,
        max_segment_count=MOST_PARTS,
        strict=True,
    )
    if not body.startswith(b"--" + boundary):
        # The library looks for it further on.
        raise InvalidForm("The body of your request does not begin with the boundary of its form.")
    end = _end(body, boundary)
    form, name = Form([], []), ""
    pieces: list[bytes] = []
    is_file = False
    try:
        for event in _events(parser, body, end):
            if isinstance(event, MultipartSegment):
                name, is_file = _named(event, form, decided), event.filename is not None
                pieces = []
                if is_file:
                    form.files.append(FormFile(name))
            elif event is None:
                if not is_file:
                    form.texts.append((name, b"".join(pieces).decode()))
            elif is_file:
                _add(form.files[-1], bytes(event))
            else:
                pieces.append(bytes(event))
    except MultipartError as error:
        text, name = "We could not parse the multipart body of your request", name[:_MOST_NAMED]
        raise InvalidForm(f"{text}, at the part '{name}'." if name else f"{text}.", param=name or None) from error
    except UnicodeDecodeError as error:
        name = name[:_MOST_NAMED]
        raise InvalidForm(f"The field '{name}' of your request is not in UTF-8.", param=name) from error
    return form


def boundary_of(content_type: bytes) -> bytes:
    """What parts a form. Raises InvalidForm."""
    _, options = parse_options_header(content_type.decode("latin-1"))
    boundary: str = options.get("boundary", "")
    if not is_form(content_type) or not boundary or content_type.lower().count(b"boundary=") > 1:
        raise InvalidForm(f"The request must be {FORM}, with a boundary in its Content-Type.", param="content-type")
    return boundary.encode("latin-1")


def _end(body: bytes, boundary: bytes) -> int:
    """Where the last boundary ends, or the body where it has none. Raises InvalidForm.

    Line ends may follow. The library lets pass what else does, or refuses even those, as the pieces happen to be cut.
    """
    last = b"--%b--" % boundary
    start = 0 if body.startswith(last) else body.find(b"\r\n" + last) + 2
    if not body.startswith(last, start):
        return len(body)
    end = start + len(last)
    if body[end:].strip(b"\r\n"):
        raise InvalidForm("The body of your request has more behind the end of its form.")
    return end


def _events(parser: PushMultipartParser, body: bytes, end: int) -> Iterator[MultipartSegment | bytes | None]:
    with parser:
        for start in range(0, end, _STEP_BYTES):
            yield from parser.parse(body[start : min(start + _STEP_BYTES, end)])


def _named(part: MultipartSegment, form: Form, decided: Collection[str]) -> str:
    """The name of a part that may be here. Raises InvalidForm."""
    name: str = part.name
    headers = [header for header, _ in part.headerlist]
    if not name or len(set(headers)) < len(headers) or "Content-Transfer-Encoding" in headers:
        told = name[:_MOST_NAMED]
        raise InvalidForm(f"The part '{told}' of your request has headers that cannot be read.", param=told or None)
    base = name.partition("[")[0]
    if base in decided:
        if name != base or part.filename is not None:
            raise InvalidForm(f"The field '{base}' of your request must be a text.", param=base)
        if any(name == other for other, _ in form.texts):
            raise InvalidForm(f"Your request has the field '{name}' twice.", param=name)
    return name


def _add(file: FormFile, data: bytes) -> None:
    file.size += len(data)
    if len(file.head) < HEAD_BYTES:
        file.head += data[: HEAD_BYTES - len(file.head)]
