"""The objects of a provider that a request names by their ids: files, earlier responses, conversations, containers.

All users share the provider's keys, so a provider would hand out to anybody what one of them created there; each id
must be the caller's own (P7, middleware/ownership.py). Ids are looked for wherever they stand, also under a key that an
object has twice, for nobody knows which of the two a provider obeys. What an application defines by itself (metadata,
schemas, arguments of tools) holds no ids of the provider's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from sentinel.error import InvalidJson, InvalidType

MOST_REFERENCES = 1_000
"""In one request; each is a question to Redis."""

DEFINED_BY_APPLICATIONS: Final = frozenset(
    ("metadata", "parameters", "schema", "json_schema", "input_schema", "arguments", "response_format", "logit_bias")
)
_CONTEXTS: Final = frozenset(("previous_response_id", "conversation", "conversation.id"))
_ID_BEGINS: Final[Mapping[str, str]] = {"skills": "skill_", "voices": "voice_"}
"""Of kinds of which a provider offers some to everybody: how the ids of those begin that somebody has created."""
_MARKS = {"reasoning": '"rs_'}
"""Of a type that is also a word of nearly every request: how the ids of its objects begin."""
NAME_PARTS = re.compile(r"[\[\].]+")
"""What stands between the parts of a name in a form."""
FOLDED = ("\u017f".encode(), "\u212a".encode(), b"\\u017f", b"\\u212a")
"""The two letters beyond ASCII that are s and k in another case."""
_ASCII_ESCAPE = b"\\u00"
"""A key may hide in it: `file\\u005fid`."""


class Reference(NamedTuple):
    """An object that is used. id: as the provider calls it. kind: its family of paths, such as `files`.

    param: where the request names it, such as `input[0].content[1].file_id`. is_known: its kind is known to be of
    objects that somebody has created, so that what nobody has is not found.
    """

    id: str
    kind: str
    param: str
    is_known: bool = True

    @property
    def is_context(self) -> bool:
        """Whether all that it has becomes input of the request."""
        return self.param in _CONTEXTS


class ReferenceFields:
    """The fields of a format that hold ids, each with the kind of what they name.

    A field holds an id, a list of ids, or an object with an `id`; one with None holds none, whatever it is called.
    by_type: the same for objects of a `type`, which are named by their own `id`. defined: fields that hold what an
    application defines, in this format alone. any_id: other fields whose names end so may hold ids, too, of kinds that
    nobody knows. recalled: types of objects of which the provider puts in what it has kept under their `id`, unless
    they bring it along, in one of these fields. any_case: names count in any case, as servers written in Go take them.
    """

    def __init__(
        self,
        fields: Mapping[str, str | None],
        by_type: Mapping[str, str] | None = None,
        defined: Collection[str] = (),
        any_id: tuple[str, ...] = (),
        recalled: Mapping[str, tuple[str, ...]] | None = None,
        *,
        any_case: bool = False,
    ) -> None:
        self._fields = fields
        self._by_type = by_type or {}
        self._recalled = recalled or {}
        self._defined = DEFINED_BY_APPLICATIONS.union(defined)
        self._any_id = any_id
        names = (*fields, *self._by_type, *any_id, *(_MARKS.get(type_, type_) for type_ in self._recalled))
        self._marks = (_ASCII_ESCAPE, *(name.encode() for name in names)) if names else ()
        self._any_case = any_case
        if any_case:
            self._marks = (*self._marks, *FOLDED)

    def kind_of(self, name: str) -> str | None:
        """The kind of what a field of this name holds; empty where nobody knows it, None where it holds no ids."""
        name = self._plain(name)
        return self._fields.get(name, "" if name.endswith(self._any_id) else None)

    def _plain(self, name: str) -> str:
        return name.casefold() if self._any_case else name

    def found_in(self, body: bytes) -> tuple[Reference, ...]:
        """What a request refers to, from its body as JSON. Raises InvalidJson, InvalidType beyond MOST_REFERENCES."""
        # Nearly no request refers to anything. `in` takes three times as long: it tries the mark as a number first.
        looked_at = body.lower() if self._any_case else body
        for mark in self._marks:
            if looked_at.find(mark) >= 0:
                break
        else:
            return ()
        try:
            # Numbers are of no interest, and may be of any length.
            pairs = json.loads(body, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
            found = list(islice(self._within(pairs, ""), MOST_REFERENCES + 1))
        except RecursionError as error:
            raise InvalidJson("The JSON body of your request is nested too deeply.") from error
        if len(found) > MOST_REFERENCES:
            raise InvalidType(
                f"The request names more than {MOST_REFERENCES:,} objects by their ids.", param=found[-1].param
            )
        return tuple(found)

    def of_field(self, name: str, value: str, param: str) -> tuple[Reference, ...]:
        """What a field of a form refers to. name: what it is called, without the place that it has in others."""
        kind = self._fields.get(name)
        return () if kind is None else (reference_to(value, kind, param),)

    def part_of(self, name: str) -> str:
        """Of a name that has others in it, such as `video[id]`, `data[file_id]` or `a.file_id`, the one that counts.

        Servers read such a name as objects in objects, so that is the innermost that holds ids, unless the outermost is
        an application's own (`metadata[file_id]`).
        """
        parts = [part for part in NAME_PARTS.split(name) if part] or [""]
        if self._plain(parts[0]) in self._defined:
            return parts[0]
        return next((part for part in reversed(parts) if self.kind_of(part) is not None), parts[0])

    def found_in_text(self, text: str) -> tuple[Reference, ...]:
        """The same in a text that may be JSON; nothing where it is none."""
        try:
            return self.found_in(text.encode())
        except ValueError:
            return ()

    def _within(self, value: Any, path: str) -> Iterator[Reference]:
        if isinstance(value, _Pairs):
            types = {each for key, each in value if self._plain(key) == "type" and isinstance(each, str)}
            for key, each in value:
                here = f"{path}.{key}" if path else key
                kind = self.kind_of(key)
                if kind is not None:
                    yield from _named(each, kind, here)
                elif self._plain(key) == "id":
                    yield from self._by_own_id(value, types, each, here)
                if self._plain(key) not in self._defined:
                    yield from self._within(each, here)
        elif isinstance(value, list):
            for number, each in enumerate(value):
                yield from self._within(each, f"{path}[{number}]")

    def _by_own_id(self, pairs: _Pairs, types: set[str], id_: Any, here: str) -> Iterator[Reference]:
        """What an object of these types names by its own `id`."""
        for type_ in types & self._by_type.keys():
            yield from _named(id_, self._by_type[type_], here)
        for type_ in types & self._recalled.keys():
            if not any(self._plain(key) in self._recalled[type_] and each for key, each in pairs):
                # Another's is not found. Where nobody keeps it, it is nothing but a name.
                yield from _named(id_, "", here)


class _Pairs(list[tuple[str, Any]]):
    """An object, with all of its fields."""


def reference_to(id_: str, kind: str, param: str) -> Reference:
    """What a field of this kind names; "": of a kind that nobody knows."""
    return Reference(id_, kind, param, is_known=bool(kind) and id_.startswith(_ID_BEGINS.get(kind, "")))


def _named(value: Any, kind: str, path: str) -> Iterator[Reference]:
    """What a field of this kind names."""
    if isinstance(value, str):
        yield reference_to(value, kind, path)
    elif isinstance(value, _Pairs):
        for key, each in value:
            if key == "id" and isinstance(each, str):
                yield reference_to(each, kind, f"{path}.id")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if isinstance(each, str | _Pairs):
                yield from _named(each, kind, f"{path}[{number}]")


NO_REFERENCES = ReferenceFields({})
