"""The objects that OpenAI keeps: files, uploads, batches, vector stores, conversations, containers and the like.

One store for all families. `_FAMILIES` says which there are and how their ids begin; what is special of one is in
`_made`. An object belongs to whoever has the key, as with OpenAI: that users are apart is the proxy's affair.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from sentinel.dev.batches import answered
from sentinel.dev.clock import unix_seconds
from sentinel.dev.forms import File, form_of
from sentinel.dev.validation import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentinel.dev.exchange import Exchange, Headers
    from sentinel.dev.generation import Billed

_FAMILIES = {
    "files": ("file-", "file"),
    "uploads": ("upload_", "upload"),
    "uploads/parts": ("part_", "upload.part"),
    "batches": ("batch_", "batch"),
    "vector_stores": ("vs_", "vector_store"),
    "vector_stores/files": ("file-", "vector_store.file"),
    "vector_stores/file_batches": ("vsfb_", "vector_store.files_batch"),
    "conversations": ("conv_", "conversation"),
    "conversations/items": ("msg_", "message"),
    "containers": ("cntr_", "container"),
    "containers/files": ("cfile_", "container.file"),
    "fine_tuning/jobs": ("ftjob-", "fine_tuning.job"),
    "fine_tuning/jobs/events": ("ftevent-", "fine_tuning.job.event"),
    "fine_tuning/jobs/checkpoints": ("ftckpt_", "fine_tuning.job.checkpoint"),
    "evals": ("eval_", "eval"),
    "evals/runs": ("evalrun_", "eval.run"),
    "assistants": ("asst_", "assistant"),
    "threads": ("thread_", "thread"),
    "threads/messages": ("msg_", "thread.message"),
    "chat/completions": ("chatcmpl-", "chat.completion"),
    "chat/completions/messages": ("", "chat.completion.message"),
    "responses": ("resp_", "response"),
    "responses/input_items": ("msg_", "message"),
}
"""How the ids of a family begin, and what `object` of its objects says. Below another's: without that one's id."""

_ACTIONS = {"cancel": "cancelled", "complete": "completed", "pause": "paused", "resume": "running"}
_MADE_BY_OTHERS = ("chat/completions", "responses")
"""What is created here is generated."""
_USUAL_PAGE, _MOST_OBJECTS = 20, 10_000
_BATCH_SECONDS = 1.0
"""So long a batch takes whose requests can be answered; of others it takes as long as it is not cancelled."""
_PATH = re.compile(r"/v1/(.+)")


@dataclass
class _Kept:
    """An object. below: its family and the id of the object that it is below, such as `conversations/items conv_1`.

    later: what it is from the moment later_at on (Unix seconds).
    """

    body: dict[str, Any]
    below: str
    content: bytes = b""
    type: str = "application/octet-stream"
    later: dict[str, Any] = field(default_factory=dict)
    later_at: float = 0.0

    def now(self) -> _Kept:
        """The same as it is by now: what goes on in the background may have ended."""
        if self.later and unix_seconds() >= self.later_at and self.body.get("status") in ("queued", "in_progress"):
            self.body, self.later = self.later, {}
        return self


@dataclass
class ObjectStore:
    """All objects of one account, in the order in which they were made. bill: told of each batch that will end."""

    bill: Callable[[Billed], None] = lambda _: None
    kept: dict[str, _Kept] = field(default_factory=dict)

    def keep(self, family: str, body: dict[str, Any]) -> None:
        """Keep what was generated, such as a response."""
        self._add(_Kept(body, family))

    def keep_in_background(self, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Keep a response that is queued, and in so many seconds is as given; returns what it is until then."""
        queued = {**body, "status": "queued", "output": [], "usage": None, "completed_at": None, "background": True}
        kept = _Kept(queued, "responses", later={**body, "background": True}, later_at=unix_seconds() + seconds)
        return self._add(kept)

    def place_of(self, path: str) -> list[str] | None:
        """The segments of a path of one of the families; None for another's."""
        found = _PATH.fullmatch(path)
        segments = found[1].split("/") if found else []
        return segments if _family(segments)[0] in _FAMILIES else None

    async def answer(self, exchange: Exchange, segments: list[str], headers: Headers) -> None:
        """Answer a request. Raises Refused."""
        family, ids, rest = _family(segments)
        for id_ in ids if rest and family != "vector_stores/files" else ids[: family_depth(family)]:
            self._found(id_)
        if exchange.method == "GET" and rest == ["content"]:
            kept = self._found(ids[-1])
            name = kept.body.get("filename", "content")
            disposition = ("content-disposition", f'attachment; filename="{name}"')
            await exchange.answer(200, kept.content, [*headers, disposition], kept.type)
            return
        await exchange.answer_json(200, self._told(exchange, family, ids, rest), headers)

    def _told(self, exchange: Exchange, family: str, ids: list[str], rest: list[str]) -> dict[str, Any]:
        method, below = exchange.method, " ".join([family, *ids[: family_depth(family)]])
        is_one = len(ids) > family_depth(family)
        if rest == ["search"] and method == "POST":
            return {"object": "vector_store.search_results.page", "search_query": [], "data": [], "has_more": False}
        if rest and rest[0] in _ACTIONS and method == "POST":
            return self._acted(ids[-1], rest[0], exchange)
        if rest:
            raise Refused(404, f"Invalid URL ({method} {exchange.path})")
        if not is_one and method == "GET":
            return self._page(below, exchange.query)
        if not is_one and method == "POST" and family not in _MADE_BY_OTHERS:
            return self._made(family, below, exchange)
        if is_one and method == "GET":
            return self._found(ids[-1], below).body
        if is_one and method == "POST":
            kept = self._found(ids[-1], below)
            kept.body |= _fields(exchange)[0]
            return kept.body
        if is_one and method == "DELETE":
            self._found(ids[-1], below)
            del self.kept[_key(ids[-1], below)]
            return {"id": ids[-1], "object": f"{_FAMILIES[family][1]}.deleted", "deleted": True}
        raise Refused(405, f"Not allowed to {method} on {exchange.path}.", code="method_not_supported")

    def _found(self, id_: str, below: str | None = None) -> _Kept:
        key = id_ if below is None else _key(id_, below)
        kept = self.kept.get(key)
        if kept is None:
            raise Refused(404, f"No such object: {id_}", code="not_found")
        return kept.now()

    def _add(self, kept: _Kept) -> dict[str, Any]:
        self.kept[_key(kept.body["id"], kept.below)] = kept
        if len(self.kept) > _MOST_OBJECTS:
            del self.kept[next(iter(self.kept))]
        return kept.body

    def _page(self, below: str, query: str) -> dict[str, Any]:
        asked = parse_qs(query)
        bodies = [kept.now().body for kept in self.kept.values() if kept.below == below]
        if asked.get("order", ["desc"])[0] == "desc":
            bodies.reverse()
        ids = [body["id"] for body in bodies]
        after, limit = asked.get("after", [""])[0], int(asked.get("limit", [str(_USUAL_PAGE)])[0])
        start = ids.index(after) + 1 if after in ids else 0
        page = bodies[start : start + limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + limit < len(bodies),
        }

    def _made(self, family: str, below: str, exchange: Exchange) -> dict[str, Any]:
        begin, kind = _FAMILIES[family]
        fields, files = _fields(exchange)
        body: dict[str, Any] = {"id": begin + secrets.token_hex(12), "object": kind, "created_at": int(unix_seconds())}
        file = next(iter(files.values()), None)
        content = b"" if file is None else file.content
        if family == "files":
            body |= {"bytes": len(content), "filename": "" if file is None else file.name, "status": "processed"}
        elif family == "conversations/items":
            made = [self._add(_Kept(_item(item), below)) for item in fields.get("items", [])]
            first, last = (made[0]["id"], made[-1]["id"]) if made else (None, None)
            return {"object": "list", "data": made, "first_id": first, "last_id": last, "has_more": False}
        elif family == "vector_stores/files":
            body |= {"id": fields.get("file_id"), "status": "completed", "vector_store_id": below.split(" ")[1]}
        elif family == "batches":
            body |= {"status": "in_progress", "output_file_id": None, "error_file_id": None}
            lines = self._found(fields.get("input_file_id", "")).content
            return self._add(self._batch({**fields, **body}, lines, exchange.headers.get("x-request-id", "")))
        elif family == "uploads":
            body |= {"status": "pending", "parts": []}
        elif family in {"evals/runs", "fine_tuning/jobs"}:
            body |= {"status": "queued"}
        return self._add(
            _Kept({**fields, **body}, below, content, "application/octet-stream" if file is None else file.type)
        )

    def _batch(self, body: dict[str, Any], lines: bytes, request_id: str) -> _Kept:
        """A batch, and what it will be once its requests are answered, if these can be."""
        done = answered(lines, request_id)
        if done is None:
            return _Kept(body, "batches")
        self.bill(done.bill)
        results = {"id": f"file-{secrets.token_hex(12)}", "object": "file", "created_at": int(unix_seconds())}
        results |= {"bytes": len(done.results), "filename": "output.jsonl", "purpose": "batch_output"}
        output = self._add(_Kept({**results, "status": "processed"}, "files", done.results))["id"]
        ended = {**body, "status": "completed", "output_file_id": output, **done.told}
        return _Kept(body, "batches", later=ended, later_at=unix_seconds() + _BATCH_SECONDS)

    def _acted(self, id_: str, action: str, exchange: Exchange) -> dict[str, Any]:
        kept = next(kept for kept in self.kept.values() if kept.body["id"] == id_)
        kept.body["status"] = _ACTIONS[action]
        if action == "complete":
            parts = [self.kept[_key(part, f"uploads/parts {id_}")] for part in _fields(exchange)[0].get("part_ids", [])]
            content = b"".join(part.content for part in parts)
            upload = kept.body
            file = {"id": f"file-{secrets.token_hex(12)}", "object": "file", "created_at": int(unix_seconds())}
            file |= {"bytes": len(content), "filename": upload.get("filename"), "purpose": upload.get("purpose")}
            kept.body["file"] = self._add(_Kept({**file, "status": "processed"}, "files", content))
        elif action == "cancel" and id_.startswith("batch_"):
            done = {"id": f"file-{secrets.token_hex(12)}", "object": "file", "created_at": int(unix_seconds())}
            done |= {"bytes": 0, "filename": "output.jsonl", "purpose": "batch_output", "status": "processed"}
            kept.body["output_file_id"] = self._add(_Kept(done, "files"))["id"]
        return kept.body


def family_depth(family: str) -> int:
    """How many ids stand before what is listed of a family."""
    return sum(1 for known in _FAMILIES if family.startswith(f"{known}/"))


def _key(id_: str, below: str) -> str:
    """A file of a vector store has the id of the file itself."""
    return f"{below} {id_}" if below.startswith("vector_stores/files ") else id_


def _family(segments: list[str]) -> tuple[str, list[str], list[str]]:
    """The family of a path, the ids in it, and the words behind them."""
    family, ids, rest = "", list[str](), list[str]()
    for number, segment in enumerate(segments):
        longer = f"{family}/{segment}" if family else segment
        is_word = any(known == longer or known.startswith(f"{longer}/") for known in _FAMILIES)
        if is_word and not rest:
            family = longer
        elif family in _FAMILIES and not rest and len(ids) <= family_depth(family):
            ids.append(segment)
        elif not number:
            return "", [], segments
        else:
            rest.append(segment)
    return family, ids, rest


def _fields(exchange: Exchange) -> tuple[dict[str, Any], dict[str, File]]:
    """The fields of a request in JSON or in multipart, and the files of the latter. Raises Refused."""
    if exchange.headers.get("content-type", "").startswith("multipart/"):
        return form_of(exchange.headers["content-type"], exchange.raw)
    try:
        body = msgspec.json.decode(exchange.raw) if exchange.raw else {}
    except msgspec.DecodeError as cause:
        raise Refused(400, "We could not parse the JSON body of your request.") from cause
    return (body if isinstance(body, dict) else {}), {}


def _item(item: dict[str, Any]) -> dict[str, Any]:
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    return {"type": "message", "status": "completed", **item, "content": content, "id": f"msg_{secrets.token_hex(12)}"}
