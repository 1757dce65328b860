"""The provider's objects in what is passed through: named by requests, created by answers, listed.

What an answer has created is whatever it calls `id`, and what the families are known to make beside it (`_BESIDE`).
What a user writes comes back in answers, too (the content of a file): it is looked at nowhere, or anybody could claim
what is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import Raw, Struct

from sentinel.endpoints.families import ObjectPath, lifetime
from sentinel.endpoints.references import Reference, ReferenceFields, reference_to
from sentinel.error import InvalidJson, InvalidType
from sentinel.proxy.sse import data_of, split_events
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage, read_usage

_KINDS: Final[Mapping[str, str | None]] = {
    # What a request in a batch, or a call of a tool, goes by is no object; there may be thousands.
    **dict.fromkeys(("custom_id", "tool_use_id", "tool_call_id", "call_id")),
    "previous_response_id": "responses",
    "response_id": "responses",
    "conversation": "conversations",
    "conversation_id": "conversations",
    "file_id": "files",
    "file_ids": "files",
    "input_file_id": "files",
    "training_file": "files",
    "validation_file": "files",
    "part_ids": "parts",
    "vector_store_id": "vector_stores",
    "vector_store_ids": "vector_stores",
    "container": "containers",
    "container_id": "containers",
    "batch_id": "batches",
    "upload_id": "uploads",
    "assistant_id": "assistants",
    "thread_id": "threads",
    "eval_id": "evals",
    "skill_id": "skills",
    "agent_id": "agents",
    "environment_id": "environments",
    "video_id": "videos",
    "video": "videos",
    "remixed_from_video_id": "videos",
    "characters": "characters",
    "voice": "voices",
    "consent": "voice_consents",
    "vault_ids": "vaults",
}
_KINDS_BY_TYPE: Final = {"item_reference": "responses", "stored_completion": "chat_completions"}
RECALLED: Final = {
    "image_generation_call": ("result",),
    "reasoning": ("encrypted_content", "content"),
    "file_search_call": ("results",),
    "code_interpreter_call": ("outputs",),
    "web_search_call": (),
}
"""Items of a response that OpenAI fills in from their `id`, such as an image that is to be changed once more."""
_DEFINED: Final = ("attributes", "item_schema")
FIELDS: Final = ReferenceFields(
    _KINDS, _KINDS_BY_TYPE, _DEFINED, any_id=("_id", "_ids"), recalled=RECALLED, any_case=True
)
"""Of all families: an application that is not known to take an id somewhere may still send one there."""

_IN_LINES: Final = ReferenceFields(_KINDS, _KINDS_BY_TYPE, _DEFINED, recalled=RECALLED, any_case=True)
"""Of the requests in a batch, which have a `custom_id` of their own each."""

_PAGE_NAMES = ("after", "before", "after_id", "before_id")
_CREDENTIALS = (b"key", b"api_key", b"api-key", b"apikey", b"access_token")
"""Parameters of a query that hold a token or a key, which stays here (P4)."""

_OF_RESPONSE = (
    ("output[].id", "responses"),
    ("output[].container_id", "containers"),
)
_OF_BATCH = (("output_file_id", "files"), ("error_file_id", "files"))
_OF_JOB = (("result_files[]", "files"), ("fine_tuned_model", "models"))
_BESIDE: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "responses/{}": _OF_RESPONSE,
    "responses/{}/cancel": _OF_RESPONSE,
    "responses/{}/input_items": (("data[].id", "responses"),),
    "responses/compact": (("output[].id", "responses"),),
    "conversations": (("items[].id", "items"),),
    "conversations/{}/items": (("data[].id", "items"),),
    "batches": (("data[].output_file_id", "files"), ("data[].error_file_id", "files"), *_OF_BATCH),
    "batches/{}": _OF_BATCH,
    "batches/{}/cancel": _OF_BATCH,
    "uploads/{}/complete": (("file.id", "files"),),
    "containers/{}/files": (("data[].id", "container_files"),),
    "fine_tuning/jobs": (("data[].result_files[]", "files"), ("data[].fine_tuned_model", "models")),
    "fine_tuning/jobs/{}": _OF_JOB,
    "fine_tuning/jobs/{}/cancel": _OF_JOB,
    "fine_tuning/jobs/{}/checkpoints": (("data[].fine_tuned_model_checkpoint", "models"),),
    "threads/runs": (("thread_id", "threads"),),
}
"""By the form of a path: where an answer there, to whatever method, has what was created beside its own `id`."""

_MOST_MODEL = 256
"""Characters of a model's name, as tokens/request.py has it: what is kept by model must not grow by names."""

_FIRST_ID = re.compile(rb'\A\s*\{[^{}\[\]]*?"id"\s*:\s*"([^"\\]{1,256})"')
"""The id of an object that is too large to be held, if it comes before all that is nested."""

_anything = msgspec.json.Decoder(Raw)
_top_level = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])


class _Named(Struct):
    id: Any = None


class _Asked(Struct):
    model: Any = None


class JsonBody(Struct, frozen=True):
    """What is decided on of a JSON body that passes. model: empty where it names none.

    input_file: of a batch, the file that has its requests.
    """

    model: str
    references: tuple[Reference, ...]
    input_file: str = ""


def read_body(body: bytes) -> JsonBody:
    """Read a body as JSON. Raises InvalidJson, InvalidType."""
    try:
        body.decode()
        _anything.decode(body)
        references = FIELDS.found_in(body)
        asked = msgspec.json.decode(body, type=_Asked) if body.lstrip().startswith(b"{") else _Asked()
    except (ValueError, RecursionError) as error:
        raise InvalidJson("We could not parse the JSON body of your request.") from error
    model = asked.model if isinstance(asked.model, str) and len(asked.model) <= _MOST_MODEL else ""
    files = (reference.id for reference in references if reference.param == "input_file_id")
    return JsonBody(model, references, next(files, ""))


def in_lines(lines: bytes) -> tuple[Reference, ...]:
    """What requests name that stand in lines of a file, each once.

    Raises InvalidType for what may name something and cannot be read.
    """
    found: dict[Reference, None] = {}
    for line in lines.split(b"\n"):
        try:
            found.update(dict.fromkeys(_IN_LINES.found_in(line)))
        except (ValueError, InvalidJson) as error:
            raise InvalidType("The file has a line that is no JSON.", param="input_file_id") from error
    return tuple(found)


def in_query(query: bytes, about: ObjectPath) -> tuple[Reference, ...]:
    """The objects that a query names: where a page begins or ends, or by fields as bodies have them."""
    found: list[Reference] = []
    text = query.decode("latin-1")
    for separator in "&;":
        for name, value in parse_qsl(text, keep_blank_values=True, separator=separator):
            bare = name.partition("[")[0]
            if bare in _PAGE_NAMES:
                found.append(Reference(value, about.kind, name, is_known=about.is_known and not about.ids))
            elif (kind := FIELDS.kind_of(FIELDS.part_of(name))) is not None:
                found.append(reference_to(value, kind, name))
        if ";" not in text:
            break
    return tuple(found)


def query_without_credentials(query: bytes, secrets: Collection[bytes]) -> bytes:
    """A query without the parameters that are, or hold, the caller's token, in any spelling; others as they came."""
    return b"&".join(each for each in query.split(b"&") if not _is_credential(each, secrets))


def _is_credential(parameter: bytes, secrets: Collection[bytes]) -> bool:
    plain = unquote_to_bytes(parameter.replace(b"+", b" "))
    # Some take a semicolon for what parts parameters, too.
    names = {each.partition(b"=")[0].strip().lower() for each in plain.split(b";")}
    return not names.isdisjoint(_CREDENTIALS) or any(
        secret in spelled for secret in secrets for spelled in (parameter, plain)
    )


class Created(Struct, frozen=True):
    """What an answer has created. seconds: how long it is there at most, None: for ever."""

    id: str
    seconds: int | None


def created_in(about: ObjectPath, told: Any, *, creates: bool) -> tuple[Created, ...]:
    """What an answer there tells of that is the caller's. creates: to a method that may have created it."""
    if not isinstance(told, dict):
        return ()
    found = [(id_, about.kind) for id_ in _own_ids(told)] if creates else []
    for path, kind in _BESIDE.get(about.form, ()):
        found += [(id_, kind) for id_ in _at(told, path.split("."))]
    if about.kind == "responses":
        found += _in_annotations(told)
    named = {reference.id for reference in about.ids}
    return tuple(Created(id_, lifetime(kind)) for id_, kind in found if id_ not in named)


def created_beside(about: ObjectPath) -> bool:
    """Whether answers there, to whatever method, tell of objects that were created beside the one they are about."""
    return about.form in _BESIDE


def created_in_response(response: dict[str, Any]) -> tuple[str, ...]:
    """The ids of a response, its items, and what its tools have made, in the order of the answer.

    Where the provider does not keep the response (`store`), containers are there all the same.
    """
    is_kept = response.get("store") is not False
    own = (response.get("id"),) if is_kept else ()
    beside = (
        id_ for path, kind in _OF_RESPONSE if is_kept or kind == "containers" for id_ in _at(response, path.split("."))
    )
    made = (id_ for id_, _ in _in_annotations(response))
    return tuple(dict.fromkeys(id_ for id_ in (*own, *beside, *made) if isinstance(id_, str)))


def told_in_events(about: ObjectPath, block: bytes) -> tuple[Usage, tuple[Created, ...]]:
    """What the events of a block tell of usage, and what they have created, each once."""
    usage, created = NOTHING, dict[Created, None]()
    for data in filter(None, map(data_of, split_events(block))):
        event = parse(data)
        usage = usage.merged(usage_in(event))
        created.update(dict.fromkeys(created_in_event(about, event)))
    return usage, tuple(created)


def created_in_event(about: ObjectPath, event: Any) -> tuple[Created, ...]:
    """What an event of a stream tells of: an object itself, or the response or item in it."""
    if not isinstance(event, dict):
        return ()
    whole = (event, event.get("response"), event.get("item"))
    return tuple(each for told in whole for each in created_in(about, told, creates=True))


def first_id(begun: bytes) -> str | None:
    """The id of an object of which this is the beginning, if that tells it."""
    found = _FIRST_ID.match(begun)
    return found[1].decode(errors="replace") if found else None


def usage_in(told: Any) -> Usage:
    """The usage that an answer or an event tells, of itself or of the response in it."""
    if not isinstance(told, dict):
        return NOTHING
    response = told.get("response")
    return read_usage(told.get("usage")).merged(
        read_usage(response.get("usage")) if isinstance(response, dict) else NOTHING
    )


class Page(Struct):
    """A page of a list. items: as they came, each with its id. fields: all of the answer."""

    fields: dict[str, Raw]
    items: list[tuple[str | None, Raw]]

    @property
    def has_more(self) -> bool:
        """Whether the provider has another page."""
        return bytes(self.fields.get("has_more", b"")) == b"true"

    def ids(self) -> list[str]:
        """Of all that has one."""
        return [id_ for id_, _ in self.items if id_ is not None]

    def only(self, ids: Collection[str], *, nameless: bool) -> bool:
        """Keep those of these ids; returns whether that took any away. nameless: those without an id stay, too."""
        kept = [item for item in self.items if (nameless if item[0] is None else item[0] in ids)]
        has_fewer = len(kept) < len(self.items)
        self.items = kept
        return has_fewer

    def first(self, most: int) -> None:
        """Keep so many, and say that there are more."""
        if len(self.items) > most:
            self.items = self.items[:most]
            self.fields["has_more"] = Raw(b"true")

    def encoded(self) -> bytes:
        """The answer with the items that are left, which keep their bytes."""
        fields: dict[str, Any] = {**self.fields, "data": [item for _, item in self.items]}
        for name, at in (("first_id", 0), ("last_id", -1)):
            if name in fields:
                fields[name] = self.items[at][0] if self.items else None
        return msgspec.json.encode(fields)


def page_of(body: bytes) -> Page | None:
    """A list, as OpenAI and Anthropic send them; None for what is none."""
    try:
        fields = _top_level.decode(body)
        items = _list.decode(fields["data"])
        return Page(fields, [(_id_of(item), item) for item in items])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return None


def _id_of(item: Raw) -> str | None:
    try:
        id_ = msgspec.json.decode(item, type=_Named).id
    except msgspec.ValidationError:
        return None
    return id_ if isinstance(id_, str) else None


def _own_ids(told: dict[str, Any]) -> Iterator[str]:
    if isinstance(told.get("id"), str):
        yield told["id"]
    yield from _at(told, ["data[]", "id"])


def _at(value: Any, path: list[str]) -> Iterator[str]:
    """The texts at a place, such as `data[].id`."""
    if not path:
        if isinstance(value, str):
            yield value
        return
    name, each, _ = path[0].partition("[]")
    inner = value.get(name) if isinstance(value, dict) else None
    if not each:
        yield from _at(inner, path[1:])
    elif isinstance(inner, list):
        for one in inner:
            yield from _at(one, path[1:])


def _in_annotations(response: dict[str, Any]) -> list[tuple[str, str]]:
    """The files that tools of a response have made, as its texts cite them; those it has found are no new ones."""
    items = response.get("output")
    found: list[tuple[str, str]] = []
    for part in _objects_in(items, "content"):
        for annotation in _objects_in([part], "annotations"):
            if annotation.get("type") == "container_file_citation":
                found += [(id_, "containers") for id_ in _at(annotation, ["container_id"])]
                found += [(id_, "container_files") for id_ in _at(annotation, ["file_id"])]
    return found


def _objects_in(values: Any, name: str) -> Iterator[dict[str, Any]]:
    """The objects in the lists that each of these objects has under this name."""
    for value in values if isinstance(values, list) else ():
        inner = value.get(name) if isinstance(value, dict) else None
        yield from (each for each in (inner if isinstance(inner, list) else ()) if isinstance(each, dict))
