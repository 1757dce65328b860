"""JSON that two readers could take differently: equal keys in one object, and numbers longer than some can read.

RFC 8259 leaves to each reader which of two equal keys counts (section 4), and how long a number may be (section 6). We
would judge one of them, and the provider might obey the other; so objects that we decide on must have no such keys.
What lies elsewhere in a body is the provider's affair.

Most JSON has no equal keys anywhere, which jiter says quickly (1 us for a body of 400 bytes). It makes an object of all
that it reads and keeps Python's lock, so what is large is given to it in pieces. Where it finds something, or does not
like what it reads, the objects that matter are looked at one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import jiter
import msgspec

from sentinel.tokens.tools import MOST_BYTES

Shape: TypeAlias = "Mapping[str, Shape] | None"
"""The fields of an object that are objects, or lists of them, and are decided on; None: everything inside is."""

MOST_DIGITS = 4300
"""In a row. Python reads no longer integers (sys.int_info.default_max_str_digits), as do providers written in it."""

_AT_ONCE_BYTES, _AT_ONCE_ITEMS = 32 * 1024, 32
"""What jiter is given. The worst of it, nested lists, takes 1 ms."""

_STRIDE = MOST_DIGITS // 2
_DIGIT_BEFORE_DIGIT = re.compile(rb"[0-9](?=[0-9])")
_STRING_OR_DIGITS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[0-9]++')

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_key = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_KEY = re.compile(rb'[ \t\r\n,]*+("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+:[ \t\r\n]*+')
_END = re.compile(rb"[ \t\r\n]*+\}")


def surely_unambiguous(body: bytes) -> bool:
    """Whether no two readers could take this JSON differently; False: it must be looked at more closely."""
    return len(body) <= MOST_DIGITS and _surely_has_none(body)


class EqualKeys(ValueError):
    """An object has a key twice. path: to the object, such as `messages[0]`, empty for the body itself."""

    def __init__(self, path: str, key: str) -> None:
        super().__init__(key)
        self.path = path
        self.key = key


def refuse_equal_keys(raw: bytes, shape: Shape, path: str = "") -> None:
    """Raise EqualKeys if one of the objects that `shape` names has any, RecursionError for what is nested too deeply.

    raw: valid JSON without space around it.
    """
    if _surely_has_none(raw):
        return
    if shape is None:
        _refuse_anywhere(raw, path)
    elif raw[:1] == b"[":
        _refuse_in_items([bytes(item) for item in _list.decode(raw)], shape, path)
    elif raw[:1] == b"{":
        fields = _object.decode(raw)
        # Written compactly it has this length, if no pair is lost.
        if len(_encode(fields)) < len(raw) and (key := _repeated(raw, fields)) is not None:
            raise EqualKeys(path, key)
        for name, inner in shape.items():
            if name in fields:
                refuse_equal_keys(bytes(fields[name]), inner, f"{path}.{name}" if path else name)


def _refuse_in_items(items: list[bytes], shape: Shape, path: str) -> None:
    for start in range(0, len(items), _AT_ONCE_ITEMS):
        some = items[start : start + _AT_ONCE_ITEMS]
        if _surely_has_none(b"[%b]" % b",".join(some)):
            continue
        for position, item in enumerate(some, start):
            refuse_equal_keys(item, shape, f"{path}[{position}]")


def _surely_has_none(raw: bytes) -> bool:
    """Whether it is small and no object anywhere in it has equal keys."""
    if len(raw) > _AT_ONCE_BYTES:
        return False
    try:
        jiter.from_json(raw, catch_duplicate_keys=True, cache_mode="none")
    except ValueError:
        # Also what is nested deeper than jiter likes.
        return False
    return True


def _repeated(raw: bytes, fields: Mapping[str, msgspec.Raw]) -> str | None:
    """The first key that comes twice in an object of which `fields` has the first place and the last value of each key.

    Without such a key the object is just these pairs in this order; where it is not, one of two must be the cause.
    """
    last, position = "", 1
    for name, value in fields.items():
        found = _KEY.match(raw, position)
        if found is None:
            return last
        if (key := _key.decode(found[1])) != name:
            return key
        if not raw.startswith(bytes(value), found.end()):
            return name
        last, position = name, found.end() + len(bytes(value))
    if (found := _KEY.match(raw, position)) is not None:
        return _key.decode(found[1])
    return None if _END.match(raw, position) else last


def _refuse_anywhere(raw: bytes, path: str) -> None:
    if len(raw) > MOST_BYTES:
        # Nobody takes it apart, it counts as the JSON that it is (tokens/tools.py).
        return

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise EqualKeys(path, key)
            seen.add(key)

    json.loads(raw, object_pairs_hook=look)


def has_endless_number(body: bytes) -> bool:
    """Whether a number in it has more than MOST_DIGITS digits in a row. body: valid JSON."""
    if len(body) <= MOST_DIGITS:
        return False
    # So many digits in a row hold two of these samples, and all that is between them.
    pairs = _DIGIT_BEFORE_DIGIT.finditer(body[::_STRIDE])
    starts = (pair.start() * _STRIDE for pair in pairs)
    if not any(body[start : start + _STRIDE].isdigit() for start in starts):
        return False
    # Only now it is worth while to see whether they are a number, or text.
    return any(
        found.end() - found.start() > MOST_DIGITS and found[0][:1] != b'"' for found in _STRING_OR_DIGITS.finditer(body)
    )
