"""The models that a request names: its `model`, and those of what is in it: of a tool, a session, a line of a batch.

For callers whose plan does not have all models. A name counts wherever it stands and in any case, as servers written
in Go take it, also under a key that an object has twice. What is said to a model, and what an application defines by
itself (metadata, schemas, arguments), names none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from sentinel.endpoints.references import DEFINED_BY_APPLICATIONS, FOLDED, NAME_PARTS
from sentinel.error import InvalidJson

_NAMES: Final = frozenset(("model", "models", "fallbacks"))
"""The last two are lists of models to be tried next, as routers of models take them."""
_DEFINED: Final = DEFINED_BY_APPLICATIONS.union(("attributes", "item", "item_schema", "sample", "variables"))
_SAID: Final = frozenset(("messages", "additional_messages", "contents", "content", "input", "items", "system"))
"""Lists of what is said. An object of such a name is another thing: `audio.input` of a session."""
_MARKS: Final = (b"model", b"fallbacks", b"\\u", *FOLDED[:2])
"""What a value has in it that names models. A key may hide in escapes, or in letters beyond ASCII."""

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

NamedModels = Mapping[str, str]
"""Models, and where each is named first, such as `tools[0].model`. "" is named where a model should be, and is none."""


class _Pairs(list[tuple[str, Any]]):
    """An object, with all of its fields."""


def models_in(body: bytes) -> NamedModels:
    """The models that JSON names. Raises InvalidJson for what may name some and cannot be read."""
    found: dict[str, str] = {}
    if _may_name(body):
        _look(body, found)
    return found


def models_in_text(text: bytes) -> NamedModels:
    """The same of a text that may be JSON; none where it is none. Raises InvalidJson for what is nested too deeply."""
    try:
        return models_in(text)
    except InvalidJson as error:
        if isinstance(error.__cause__, RecursionError):
            raise
        return {}


def models_of_request(body: bytes) -> NamedModels:
    """The same of an object without equal keys: what is said in it, which may be long, is not taken apart.

    Raises InvalidJson.
    """
    found: dict[str, str] = {}
    try:
        fields = _top_level(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable() from error
    for key, raw in fields.items():
        name, value = key.casefold(), bytes(raw)
        if name in _DEFINED or (name in _SAID and value[:1] == b"["):
            continue
        if name in _NAMES or _may_name(value):
            _look(b"{%b:%b}" % (json.dumps(key).encode(), value), found)
    return found


def models_in_lines(lines: bytes) -> NamedModels:
    """The models of requests that stand in lines of a file, "" where one names none. Raises InvalidJson."""
    found: dict[str, str] = {}
    for line in filter(None, map(bytes.strip, lines.split(b"\n"))):
        found.update(dict.fromkeys(models_in(line) or ("",), "input_file_id"))
    return found


def models_in_pairs(form: bytes) -> NamedModels:
    """The models of a query, or of a form that is written like one."""
    text = form.decode("latin-1")
    pairs = [*parse_qsl(text), *(parse_qsl(text, separator=";") if ";" in text else ())]
    return {value: name for name, value in pairs if is_named(name)}


def is_named(field: str) -> bool:
    """Whether a field of a form names a model, such as `model` or `session[model]`, unless it is an application's."""
    parts = [part.casefold() for part in NAME_PARTS.split(field) if part]
    return bool(parts) and parts[0] not in _DEFINED and not _NAMES.isdisjoint(parts)


def _may_name(value: bytes) -> bool:
    lower = value.lower()
    return any(lower.find(mark) >= 0 for mark in _MARKS)


def _look(body: bytes, found: dict[str, str]) -> None:
    try:
        # Numbers are of no interest, and may be of any length.
        read = json.loads(body, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, strict=False)
        _walk(read, "", found)
    except (ValueError, RecursionError) as error:
        raise _unreadable() from error


def _unreadable() -> InvalidJson:
    return InvalidJson("We could not parse the JSON body of your request.")


def _walk(value: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(value, _Pairs):
        for key, each in value:
            name, here = key.casefold(), f"{path}.{key}" if path else key
            is_list = isinstance(each, list) and not isinstance(each, _Pairs)
            if name in _DEFINED or (name in _SAID and is_list):
                continue
            if name in _NAMES:
                _note(each if is_list else [each], here, found)
            _walk(each, here, found)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            _walk(each, f"{path}[{number}]", found)


def _note(names: Iterable[Any], path: str, found: dict[str, str]) -> None:
    for name in names:
        if isinstance(name, str):
            found.setdefault(name, path)
