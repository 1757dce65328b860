"""JSON bodies of all formats: bytes to what is decided on, and the few changes that a body may need.

The client's bytes are sent on as they are unless something must change; then every value that does not change keeps
its own bytes, for only the top level is taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from sentinel.endpoints.endpoint import Changes
from sentinel.endpoints.strict_json import (
    MOST_DIGITS,
    EqualKeys,
    Shape,
    has_endless_number,
    refuse_equal_keys,
    surely_unambiguous,
)
from sentinel.error import AppError, InvalidJson, InvalidType, MissingParameter

T = TypeVar("T")

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder(msgspec.Raw)
_BEGIN = re.compile(rb"[ \t\r\n]*([\[{]?)")
_BEFORE_VALUE = re.compile(rb'[{, \t\r\n]*"(?:[^"\\]|\\.)*"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_BEFORE_ITEM = re.compile(rb"[\[, \t\r\n]*")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")
_WHITE_SPACE = b" \t\r\n"
_MOST_NAMED = 96
"""Characters of a client's key in a message of ours."""

_OURS = frozenset(("stream_options", "max_completion_tokens", "max_tokens", "max_output_tokens"))
_ASK_USAGE = b'"stream_options":{"include_usage":true},'


def read(decode: Callable[[bytes], T], shape: Shape, body: bytes) -> T:
    """What is decided on of a body. shape: the objects in it of which no key may come twice.

    decode: as msgspec does, with its errors.
    Raises InvalidJson, InvalidType, MissingParameter.
    """
    try:
        # msgspec does not look at the text in fields that we do not need.
        if not body.isascii():
            body.decode()
        try:
            request = decode(body)
        except msgspec.ValidationError as error:
            # It stopped there; what follows may not even be JSON.
            _anything.decode(body)
            raise _misfit(str(error)) from error
        if not surely_unambiguous(body):
            _refuse_ambiguity(body, shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJson("We could not parse the JSON body of your request.") from error
    return request


def _refuse_ambiguity(body: bytes, shape: Shape) -> None:
    """What we judge is what the provider obeys, so there must be one way to read it (DESIGN section 4)."""
    if has_endless_number(body):
        raise InvalidJson(f"The JSON body of your request has a number of more than {MOST_DIGITS} digits.")
    try:
        refuse_equal_keys(body.strip(_WHITE_SPACE), shape)
    except EqualKeys as error:
        key = error.key[:_MOST_NAMED]
        param = f"{error.path}.{key}" if error.path else key
        raise InvalidJson(f"The JSON body of your request has '{param}' twice.", param=param) from error


def fitted(fields: dict[str, Any], kind: type[T]) -> T:
    """Fields of a form as the struct that JSON would be. Raises InvalidType."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from error


def _misfit(text: str) -> AppError:
    """What msgspec says of JSON that does not fit, as an error of ours."""
    path = found["path"] if (found := _PATH.search(text)) else ""
    if missing := _MISSING.search(text):
        param = f"{path}.{missing['field']}" if path else missing["field"]
        return MissingParameter(f"Missing required parameter: '{param}'.", param=param)
    reason = _PATH.sub("", text)
    param = path or None
    return InvalidType(f"Invalid type for '{param or 'body'}': {reason}.", param=param)


def changed(body: bytes, changes: Changes, bounds: dict[str, int], *, has_options: bool) -> bytes:
    """The body with these changes; the client's own bytes where there are none.

    bounds: the client's own maxima of output by their fields. has_options: whether it has `stream_options`.
    """
    if not changes.ask_usage and changes.output_max is None:
        return body
    if not (changes.ask_usage and has_options) and (changes.output_max is None or not bounds):
        return _with_more(body, changes)
    fields: dict[str, Any] = dict(_top_level.decode(body))
    if changes.ask_usage:
        options: dict[str, Any] = dict(_top_level.decode(fields["stream_options"])) if has_options else {}
        fields["stream_options"] = {**options, "include_usage": True}
    if changes.output_max is not None:
        lowered = {name: min(bound, changes.output_max) for name, bound in bounds.items()}
        fields |= lowered or {changes.output_field: changes.output_max}
    return msgspec.json.encode(fields)


def fields(body: bytes) -> dict[str, msgspec.Raw]:
    """All fields that the body has, with their values as they are."""
    return _top_level.decode(body)


def value(body: bytes, name: str) -> msgspec.Raw:
    """The value of a field that the body has, as it is."""
    return _top_level.decode(body)[name]


def replaced(body: bytes, values: dict[str, Any]) -> bytes:
    """The body with these values instead of its own; all others keep their bytes."""
    return msgspec.json.encode({**_top_level.decode(body), **values})


Span = tuple[int, int]
"""Where a value begins in a body, and where it ends."""


def spans(body: bytes, path: Sequence[str]) -> Iterator[Span]:
    """Where the values stand to which these keys lead, one inside of the other; a list on the way stands for its items.

    No object on the way may have equal keys. Raises msgspec.DecodeError for what is no JSON.
    """
    begin = _BEGIN.match(body)
    kind = b"" if begin is None else begin[1]
    if not path:
        yield 0, len(body)
    elif kind == b"{":
        for key, start, end in _fields_of(body):
            if key == path[0]:
                yield from _within(body, start, end, path[1:])
    elif kind == b"[":
        for start, end in _items_of(body):
            yield from _within(body, start, end, path)


def _within(body: bytes, start: int, end: int, path: Sequence[str]) -> Iterator[Span]:
    for first, last in spans(body[start:end], path):
        yield start + first, start + last


def _fields_of(body: bytes) -> Iterator[tuple[str, int, int]]:
    end = 0
    for key, raw in _top_level.decode(body).items():
        if (before := _BEFORE_VALUE.match(body, end)) is None:
            return
        start, end = before.end(), before.end() + len(memoryview(raw))
        yield key, start, end


def _items_of(body: bytes) -> Iterator[Span]:
    end = 0
    for raw in _items.decode(body):
        before = _BEFORE_ITEM.match(body, end)
        start = end if before is None else before.end()
        end = start + len(memoryview(raw))
        yield start, end


def _with_more(body: bytes, changes: Changes) -> bytes:
    """The body with fields added at its end: nothing is parsed, nothing of the client's is touched.

    A body that has such a field, as null or in escapes, is taken apart instead: nobody shall read two of one name.
    """
    # `find`, for `in` makes an exception first for whatever is no number.
    more, there = b"", False
    if changes.ask_usage:
        more, there = _ASK_USAGE, body.find(b'"stream_options"') >= 0
    if changes.output_max is not None:
        name = b'"%b"' % changes.output_field.encode()
        more, there = b"%b%b:%d," % (more, name, changes.output_max), there or body.find(name) >= 0
    if there or (body.find(b"\\u00") >= 0 and not _OURS.isdisjoint(_top_level.decode(body))):
        fields: dict[str, Any] = dict(_top_level.decode(body))
        fields.update(msgspec.json.decode(b"{" + more[:-1] + b"}"))
        return msgspec.json.encode(fields)
    return b"%b,%b}" % (body.rstrip(_WHITE_SPACE)[:-1], more[:-1])
