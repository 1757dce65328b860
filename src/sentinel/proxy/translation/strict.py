"""A client's request, read by an allow-list: what the structs of a pair do not have is refused, never left out."""

from __future__ import annotations

import re
from typing import TypeVar

import jiter
import msgspec
from msgspec import Raw

from sentinel.error import AppError, InvalidJson, MissingParameter, UnsupportedParameter

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"(?P<what>unknown|required) field `(?P<field>.*)`", re.DOTALL)
_MOST_NAMED = 96
"""Characters of a client's key in a message of ours."""


def read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The request in a body. Raises InvalidJson, MissingParameter, UnsupportedParameter."""
    try:
        # Of two equal keys one would be lost, wherever they are.
        jiter.from_json(body, catch_duplicate_keys=True, cache_mode="none")
        return read_part(decoder, body, "")
    except (ValueError, RecursionError) as error:
        raise InvalidJson("The JSON body of your request cannot be read, or has a key twice in one object.") from error


def read_part(decoder: msgspec.json.Decoder[T], raw: bytes | Raw, param: str) -> T:
    """What stands at `param` in a request that is JSON. Raises MissingParameter, UnsupportedParameter."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), param) from error


def unsupported(param: str) -> UnsupportedParameter:
    """The refusal of what has no place in the provider's format."""
    return UnsupportedParameter(
        f"'{param}' cannot be translated into the format that the provider of this model speaks.", param=param
    )


def _misfit(text: str, param: str) -> AppError:
    inner = found["path"] if (found := _PATH.search(text)) else ""
    path = ".".join(filter(None, (param, inner)))
    named = _FIELD.search(_PATH.sub("", text))
    if named is not None:
        field = named["field"][:_MOST_NAMED]
        path = f"{path}.{field}" if path else field
        if named["what"] == "required":
            return MissingParameter(f"Missing required parameter: '{path}'.", param=path)
    return unsupported(path or "body")


def given(raw: Raw) -> bool:
    """Whether a field that is passed on as it is was there, and not null."""
    return bytes(raw) not in (b"", b"null")


def object_of(text: str) -> Raw | None:
    """A JSON object in a text, with its own bytes; an empty one of none; None for anything else."""
    if not text.strip():
        return Raw(b"{}")
    try:
        _fields.decode(text)
    except (ValueError, RecursionError):
        return None
    return Raw(text.encode())


_fields = msgspec.json.Decoder(dict[str, Raw])
