"""A request in the words of its target: another name of the model, another field for the maximum. Decides.

All other bytes stay the client's: the model is replaced where it stands, and so is the name of the maximum, if that is
clear; else the top level is taken apart, and every value keeps its own bytes.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace
from multipart import parse_content_disposition

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import UNCHANGED, Changes, Endpoint
from sentinel.endpoints.form import boundary_of, is_form

CHAT = "chat"
_MAXIMA = ("max_tokens", "max_completion_tokens")
_DISPOSITION = re.compile(rb"^content-disposition[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


class Habits(Protocol):
    """What a target is to be told in another way. model: its name there; the others as in provider_config.py."""

    @property
    def model(self) -> str | None:
        """None: as the client has it."""

    @property
    def max_tokens_field(self) -> str | None:
        """None: as the client has it."""

    @property
    def renames_maximum(self) -> bool:
        """Whether the client's own maximum goes by max_tokens_field, too."""

    @property
    def stream_usage(self) -> bool:
        """Whether it knows `stream_options`."""


def with_model(body: bytes, before: str, after: str, endpoint: Endpoint[Any]) -> bytes:
    """A JSON body that names this model instead, also where it has named none."""
    found = (span for path in endpoint.models for span in json_body.spans(body, path))
    places = sorted(span for span in found if body[slice(*span)] != b"null")
    if not places:
        return body if endpoint.names_model_in_path else json_body.replaced(body, {"model": after})
    pieces, end = list[bytes](), 0
    for start, stop in places:
        name = msgspec.json.decode(body[start:stop])
        value = endpoint.renamed(name, before, after)
        pieces += body[end:start], body[start:stop] if value == name else msgspec.json.encode(value)
        end = stop
    return b"".join([*pieces, body[end:]])


def form_with_model(body: bytes, content_type: bytes, before: str, after: str) -> bytes:
    """A form that names this model instead. It was read in its strict mode, so there is one such field at most."""
    delimiter = b"\r\n--%b" % boundary_of(content_type)
    start = len(delimiter) - 2
    while (end := body.find(delimiter, start)) >= 0:
        head_end = body.find(b"\r\n\r\n", start, end)
        if head_end >= 0 and _is_model(body[start:head_end]) and body[head_end + 4 : end] == before.encode():
            return b"%b%b%b" % (body[: head_end + 4], after.encode(), body[end:])
        start = end + len(delimiter)
    return body


def _is_model(head: bytes) -> bool:
    """Whether these headers of a part, from behind its boundary on, name the field of the model."""
    found = _DISPOSITION.search(head)
    if found is None or not head.startswith(b"\r\n"):
        return False
    return bool(parse_content_disposition(found[1].decode("utf-8", "replace").strip())[1] == "model")


def with_maximum_as(body: bytes, name: str) -> bytes:
    """A chat whose maximum of output is in the field of this name, wherever the client had it."""
    other = next(each for each in _MAXIMA if each != name)
    key = b'"%b"' % other.encode()
    if body.find(key) < 0 and body.find(b"\\u00") < 0:
        return body
    fields: dict[str, Any] = dict(json_body.fields(body))
    if other not in fields or name in fields:
        return body
    if body.count(key) == 1 and body.find(b"\\u00") < 0:
        return re.sub(re.escape(key) + rb"(?=\s*:)", b'"%b"' % name.encode(), body, count=1)
    return msgspec.json.encode({name if each == other else each: value for each, value in fields.items()})


def within_habits(changes: Changes, habits: Habits, *, is_chat: bool) -> Changes:
    """Our changes, in the words that the target knows."""
    if not habits.stream_usage and changes.ask_usage:
        changes = replace(changes, ask_usage=False, adds_usage=False)
    if is_chat and habits.max_tokens_field is not None and changes.output_max is not None:
        changes = replace(changes, output_field=habits.max_tokens_field)
    return UNCHANGED if changes == UNCHANGED else changes


def with_habits(body: bytes, habits: Habits) -> bytes:
    """A chat whose maximum is in the field that the target knows, and which asks for usage only if that is known."""
    if not habits.stream_usage and body.find(b'"stream_options"') >= 0:
        fields = json_body.fields(body)
        fields.pop("stream_options", None)
        body = msgspec.json.encode(fields)
    if habits.max_tokens_field is None or not habits.renames_maximum:
        return body
    return with_maximum_as(body, habits.max_tokens_field)


def adapted(body: bytes, content_type: bytes, model: str, habits: Habits, endpoint: Endpoint[Any]) -> bytes:
    """A body as the target wants it. model: as the client names it."""
    if endpoint.format == CHAT:
        body = with_habits(body, habits)
    if habits.model is None or habits.model == model:
        return body
    if is_form(content_type):
        return form_with_model(body, content_type, model, habits.model)
    return with_model(body, model, habits.model, endpoint)
