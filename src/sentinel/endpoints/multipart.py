"""Bodies in multipart/form-data, looked at while they pass: which objects of the provider their fields name.

Fields may stand behind a file of a gigabyte, so a body is not held: what may name an object is, until it has ended and
was checked; all else passes at once. What two readers could take differently is refused (RFC 7578, RFC 2046): a
preamble, two names of a part, a name in a charset, a transfer encoding.
"""

from __future__ import annotations

import re
from typing import Final

from sentinel.endpoints.named_models import is_named, models_in_text
from sentinel.endpoints.references import Reference, ReferenceFields, reference_to
from sentinel.error import AppError, InvalidType

MOST_FIELD_BYTES: Final = 64 * 1024
"""Of a field that may name objects. An id has less than a hundred."""
_MOST_HEAD_BYTES = 16 * 1024

_TYPE = re.compile(
    rb"multipart/form-data *; *boundary="
    rb"(?:\"([\w'()+,./:=? -]{0,69}[\w'()+,./:=?-])\"|([\w'+./:-]{1,70})) *",
    re.IGNORECASE,
)
_DISPOSITION = re.compile(r'form-data((?: *; *[\w*-]+=(?:"(?:[^"\\\r\n]|\\.)*"|[^";\s]+))*) *', re.IGNORECASE)
_PARAMETER = re.compile(r'; *([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^";\s]+))')
_PLAIN = ("", "7bit", "8bit", "binary")


def boundary_of(content_type: bytes) -> bytes | None:
    """The boundary of this type; None where it is no multipart. Raises InvalidType where it has no single one."""
    if not content_type.strip().lower().startswith(b"multipart/"):
        return None
    found = _TYPE.fullmatch(content_type.strip())
    if found is None:
        raise _malformed("its Content-Type must be multipart/form-data with one boundary")
    return found[1] or found[2]


class MultipartReader:
    """Looks at one body. `feed` takes what came and gives out what may pass; `named` is what must be checked before.

    boundary: of its type. fields: which fields name objects. parts: how many there were so far. models: those
    that it has named so far, where they are looked for (finds_models).
    """

    def __init__(self, boundary: bytes, fields: ReferenceFields, *, finds_models: bool = False) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._fields = fields
        # The first delimiter has no line end before it.
        self._held = b"\r\n"
        self._is_first = True
        self._is_ahead = True
        self._in_head = False
        self._name = ""
        self._holds = False
        self._has_ended = False
        self.parts = 0
        self.named: list[Reference] = []
        self.models: dict[str, str] = {}
        self._finds_models = finds_models
        self._is_model = False

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns what passes once `named` is checked, and forget that. Raises InvalidType."""
        self.named = []
        held, passing = self._held + data, []
        while True:
            taken = self._head(held) if self._in_head else self._body(held)
            passing.append(held[:taken])
            held = held[taken:]
            if not taken or not held:
                break
        self._held = held
        out = b"".join(passing)
        if self._is_ahead and out:
            self._is_ahead, out = False, out[2:]
        return out

    def end(self) -> None:
        """The body has ended. Raises InvalidType where it should not have."""
        if not self._has_ended or self._held not in {b"", b"\r\n"}:
            raise _malformed("it has no end")

    def rest(self) -> bytes:
        """What is left once it has ended."""
        return self._held

    def _body(self, held: bytes) -> int:
        """How many bytes pass of the body of a part, or of what comes before the first one and after the last."""
        if self._has_ended:
            if held not in {b"\r", b"\r\n"}:
                raise _malformed("there is something behind its end")
            return 0
        found = held.find(self._delimiter)
        if self._is_first and (found > 0 or (found < 0 and len(held) > len(self._delimiter))):
            raise _malformed("it does not begin with its boundary")
        if found < 0:
            return 0 if self._is_first else self._hold(held) if self._holds else self._undelimited(held)
        return self._delimited(held, found)

    def _undelimited(self, held: bytes) -> int:
        # The line end of a delimiter may have come, and the delimiter not yet.
        last = held.rfind(b"\r", max(0, len(held) - len(self._delimiter) + 1))
        return len(held) if last < 0 else last

    def _delimited(self, held: bytes, found: int) -> int:
        """How many bytes pass where a delimiter was found."""
        end = found + len(self._delimiter)
        if len(held) < end + 2:
            return 0 if self._holds or self._is_first else found
        if self._holds:
            self._read(held[:found])
        after = held[end : end + 2]
        if after == b"--":
            self._has_ended = True
        elif after == b"\r\n":
            self._in_head = True
        else:
            raise _malformed("a boundary has no line of its own")
        self._is_first = self._holds = False
        return end + 2

    def _hold(self, held: bytes) -> int:
        if len(held) <= MOST_FIELD_BYTES:
            return 0
        if self._is_model or self._fields.kind_of(self._name) is not None:
            raise _malformed(f"its field '{self._name[:64]}' is too long")
        # A long text, of which nothing is an id.
        self._holds = False
        return len(held) - len(self._delimiter)

    def _head(self, held: bytes) -> int:
        end = held.find(b"\r\n\r\n")
        if end < 0:
            if len(held) > _MOST_HEAD_BYTES:
                raise _malformed("the head of a part is too long")
            return 0
        headers: dict[str, str] = {}
        for line in held[:end].decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon or name != name.strip() or name.lower() in headers or "\n" in line or "\r" in line:
                raise _malformed("the head of a part cannot be read")
            headers[name.lower()] = value.strip()
        if headers.get("content-transfer-encoding", "").lower() not in _PLAIN:
            raise _malformed("a part has a transfer encoding")
        name, is_file = _named(headers.get("content-disposition", ""))
        self._name = self._fields.part_of(name)
        self._is_model = self._finds_models and is_named(name)
        is_json = headers.get("content-type", "").lower().startswith("application/json")
        self._holds = is_json or not is_file or self._is_model or self._fields.kind_of(self._name) is not None
        self._in_head = False
        self.parts += 1
        # The line end stays: where the part is empty it is its delimiter's.
        return end + 2

    def _read(self, value: bytes) -> None:
        """A field is whole: note what it names."""
        text = value[2:]
        if self._is_model:
            self.models.setdefault(text.decode(errors="replace").strip(), "model")
        kind = self._fields.kind_of(self._name)
        if kind is not None and not text.lstrip().startswith((b"{", b"[")):
            id_ = text.decode(errors="replace").strip()
            self.named.append(reference_to(id_, kind, self._name))
        elif text.lstrip().startswith((b"{", b"[")):
            try:
                wrapped = b'{"%b":%b}' % (self._name.encode(), text) if '"' not in self._name else text
                self.named += self._fields.found_in(wrapped)
                if self._finds_models:
                    self.models.update(models_in_text(wrapped))
            except ValueError as error:
                # Something in it could be an id.
                raise _malformed(f"its field '{self._name[:64]}' cannot be read") from error


def _named(disposition: str) -> tuple[str, bool]:
    """The name of a part, and whether it is a file. Raises InvalidType."""
    found = _DISPOSITION.fullmatch(disposition)
    pairs = [] if found is None else [(each[1].lower(), each[2] or each[3]) for each in _PARAMETER.finditer(found[1])]
    names = [value for name, value in pairs if name in {"name", "name*"}]
    if len(names) != 1 or ("name*", names[0]) in pairs or "\\" in (names[0] or ""):
        raise _malformed("a part must have one name")
    return names[0] or "", any(name.startswith("filename") for name, _ in pairs)


def _malformed(reason: str) -> AppError:
    return InvalidType(f"The multipart body of your request cannot be passed on: {reason}.", param="content-type")
