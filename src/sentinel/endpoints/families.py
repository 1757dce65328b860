"""The families of paths below /v1 that keep objects at a provider, and what a path says of them. One table.

A family is named by the first words of its paths, such as `files` or `chat/completions`. Whose an object is decides
whether a path is served (P7, middleware/ownership.py). The first id of a path must be the caller's own. What lies
below an object of one's own is one's own, unless it is another's: a provider puts more there than its answers tell of
(the items of a conversation, the events of a job). A family that is not in the table passes by the records alone.

Paths are compared in lower case, for some servers take them so; they are sent as they came.
Source: openai-python 3.57.0, `src/openai/resources`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from sentinel.endpoints.references import Reference

_DAYS = 86_400
RESPONSE_SECONDS: Final = 31 * _DAYS
"""OpenAI keeps a response, a stored chat completion, and what belongs to them for 30 days."""

_TABLE: Final = (
    "files/{files}/content",
    "uploads/{uploads} parts complete cancel",
    "batches/{batches}/cancel",
    "messages/batches/{message_batches} cancel results",
    "responses compact input_tokens",
    "responses/{responses} cancel input_items",
    "chat/completions/{chat_completions}/messages",
    "conversations/{conversations}/items/{items}",
    "vector_stores/{vector_stores} search",
    "vector_stores/{vector_stores}/files/{=files}/content",
    "vector_stores/{vector_stores}/file_batches/{file_batches} cancel files",
    "containers/{containers}/files/{container_files}/content",
    "fine_tuning/jobs/{fine_tuning} cancel checkpoints events pause resume",
    "fine_tuning/checkpoints/{models}/permissions/{permissions}",
    "fine_tuning/alpha/graders run validate",
    "models/{models}",
    "evals/{evals}/runs/{runs} cancel",
    "evals/{evals}/runs/{runs}/output_items/{output_items}",
    "assistants/{assistants}",
    "threads runs",
    "threads/{threads}/messages/{messages}",
    "threads/{threads}/runs/{runs} cancel submit_tool_outputs",
    "threads/{threads}/runs/{runs}/steps/{steps}",
    "videos edits extensions",
    "videos/characters/{characters}",
    "videos/{videos} content remix",
    "skills/{skills}/content",
    "skills/{skills}/versions/{=versions}/content",
    "audio/voices/{voices}",
    "audio/voice_consents/{voice_consents}",
    "realtime/calls/{calls} accept hangup refer reject",
    "realtime/translations/client_secrets",
    "live/sessions/{live_sessions} accept attach content fork hangup refer reject",
    "chatkit/sessions/{chatkit_sessions}/cancel",
    "chatkit/threads/{chatkit_threads}/items",
    "agents/automations/{automations} pause resume",
    "agents/automations/{automations}/invocations/{invocations}",
    "agents/environments/templates/{environment_templates}",
    "agents/environments/{environments}/files",
    "agents/sessions/{agent_sessions} events items traces",
    "agents/sessions/{agent_sessions}/artifacts/{artifacts}/content",
    "agents/sessions/{agent_sessions}/subagents/{subagents} items",
    "agents/sessions/{agent_sessions}/subagents/{subagents}/turns/{turns}/items",
    "agents/sessions/{agent_sessions}/turns/{turns}/items",
    "agents/{agents}",
    "vaults/{vaults}/credentials/{credentials}",
    "safety/alerts/{safety}",
    "safety/cases/{safety}",
)
"""A path of words and `{kind}` for the id of an object of that kind, and the words that may stand behind it. `{=kind}`:
the path is about what belongs to the object above it, so that to delete it deletes no object of this kind."""

_FLEETING: Final = frozenset(
    ("responses", "chat_completions", "calls", "live_sessions", "chatkit_sessions", "containers", "container_files")
)
"""Kinds whose objects end by themselves: a container after 20 minutes without use, unless it was made to last."""

REFRESHED: Final = frozenset(("containers", "container_files"))
"""Of these kinds, those that live on with each use."""

REFUSED: Final = frozenset(("organization", "organizations", "projects", "dashboard", "webhook_endpoints"))
"""Families that are about the organisation as a whole, so about all users at once: they are none of a caller's."""

_KEEPING: Final = frozenset(
    (
        *("audio", "chat", "containers", "conversations", "files", "live", "models", "realtime", "responses", "safety"),
        *("skills", "uploads", "vaults", "vector_stores"),
    )
)
"""Families in which nothing is generated that is not metered elsewhere."""
_ENDING: Final = ("cancel", "pause")

_PAST_US: Final = frozenset(
    ("chatkit/sessions", "live/sessions", "realtime/translations", "realtime/translations/client_secrets")
)
"""Forms of paths at which a session is made, or a key for one, that goes past us: nobody could hold it to a limit."""

_TOLD_ELSEWHERE: Final = ("responses", "chat", "batches", "messages", "evals")
"""Families whose answers repeat what was billed when it was generated; only what they create is billed."""


_ABOVE: Final = ("threads/{}", "evals/{}")
_TAKING_MODEL: Final = frozenset(
    ("threads/runs", "threads/{}/runs", "evals/{}/runs", "videos", "realtime/calls/{}/accept")
)
"""Forms of paths at which something is generated by the model that the request names, else by one that it does not."""
_BEGINNING: Final = {
    **{kind: kind for kind in ("batches", "messages/batches", "threads/runs")},
    **{f"{above}/runs": above.replace("{}", "runs") for above in _ABOVE},
}
_JOBS: Final = {
    **dict.fromkeys(("responses/{}", "responses/{}/cancel"), "responses"),
    **_BEGINNING,
    **{
        f"{form}{rest}": kind
        for form, kind in _BEGINNING.items()
        for rest in ("/{}", "/{}/cancel", "/{}/submit_tool_outputs")
    },
}
"""The kinds of jobs (endpoints/jobs.py) by the forms of the paths that tell of one, and of those that begin one."""


class _Node(Struct):
    """A place in the tree of paths. id: below an id; kind: of that. is_object: it is one of that kind itself."""

    words: dict[str, _Node]
    kind: str = ""
    id: _Node | None = None
    is_object: bool = True


class ObjectPath(Struct, frozen=True):
    """What a path is about. form: the path with `{}` for ids. is_known: its family is in the table.

    ids: what it names, in order. kind: of what is listed or created there, else of the object that it is about.
    deletes: the object that DELETE would end.
    """

    form: str
    is_known: bool
    ids: tuple[Reference, ...]
    kind: str
    deletes: str | None

    @property
    def may_generate(self) -> bool:
        """Whether a creating request may cost tokens, at once or later, as far as anybody knows."""
        words = self.form.split("/")
        return words[0] not in _KEEPING and words[-1] not in _ENDING

    @property
    def takes_model(self) -> bool:
        """Whether a creating request has something generated by a model, which it may leave out."""
        return self.form in _TAKING_MODEL

    @property
    def goes_past_us(self) -> bool:
        """Whether what is created there talks to the provider by itself: over WebRTC, or with a key of its own."""
        return self.form in _PAST_US

    @property
    def job_kind(self) -> str:
        """The kind of job that it is about, "" where it is about none: one that is begun there, or that is seen."""
        return _JOBS.get(self.form, "")

    @property
    def begins_job(self) -> bool:
        """Whether a creating request begins one there."""
        return self.form in _BEGINNING

    @property
    def has_jobs(self) -> bool:
        """Whether it is an object that jobs may be below, which end with it."""
        return self.form in _ABOVE

    @property
    def bills_usage(self) -> bool:
        """Whether the usage that an answer to a creating request tells was not billed before, nor as that of a job."""
        if self.job_kind:
            return self.begins_job
        return not self.ids or self.form.split("/", 1)[0] not in _TOLD_ELSEWHERE


def lifetime(kind: str) -> int | None:
    """The seconds that an object of this kind is there at most; None: for ever."""
    return RESPONSE_SECONDS if kind in _FLEETING else None


def object_path_of(segments: Sequence[str]) -> ObjectPath | None:
    """What the path of these segments, which follow `/v1`, is about; None where it is refused to everybody."""
    if segments[0].lower() in REFUSED:
        return None
    node: _Node | None = _TREE
    form: list[str] = []
    ids: list[Reference] = []
    deletes, kind = None, ""
    for number, segment in enumerate(segments):
        below = None if node is None else node.words.get(segment.lower())
        deletes = None
        if below is not None:
            form.append(segment.lower())
            node, kind = below, below.kind or kind
            continue
        if node is None or node.id is None:
            # Nobody knows whether it is a word or an id.
            node, kind = None, kind or segments[0].lower()
            form.append("{}" if number else segment.lower())
            if number:
                ids.append(Reference(segment, kind, "", is_known=False))
                deletes = segment
            continue
        kind = node.kind
        ids.append(Reference(segment, kind, "", is_known=not ids))
        deletes = segment if node.is_object else None
        form.append("{}")
        node = node.id
    return ObjectPath("/".join(form), segments[0].lower() in _TREE.words, tuple(ids), kind, deletes)


def _tree() -> _Node:
    root = _Node({})
    for line in _TABLE:
        path, *words = line.split(" ")
        node = root
        for segment in path.split("/"):
            node = _below(node, segment)
        for word in words:
            _below(node, word)
    return root


def _below(node: _Node, segment: str) -> _Node:
    if not segment.startswith("{"):
        return node.words.setdefault(segment, _Node({}))
    node.kind, node.is_object = segment.strip("{=}"), "=" not in segment
    node.id = node.id or _Node({})
    return node.id


_TREE: Final = _tree()
