"""What paths are about: families, the ids in them, and what is known of them."""

from __future__ import annotations

import pytest

from sentinel.config import OBJECT_KINDS
from sentinel.endpoints.families import RESPONSE_SECONDS, ObjectPath, lifetime, object_path_of


def about(path: str) -> ObjectPath:
    found = object_path_of(path.split("/"))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "form", "ids", "kind"),
    [
        ("files", "files", [], "files"),
        ("files/f1", "files/{}", [("f1", "files", True)], "files"),
        ("files/f1/content", "files/{}/content", [("f1", "files", True)], "files"),
        ("FILES/f1/Content", "files/{}/content", [("f1", "files", True)], "files"),
        ("chat/completions", "chat/completions", [], "chat_completions"),
        ("chat/completions/c1", "chat/completions/{}", [("c1", "chat_completions", True)], "chat_completions"),
        ("responses/compact", "responses/compact", [], "responses"),
        ("responses/r1/cancel", "responses/{}/cancel", [("r1", "responses", True)], "responses"),
        (
            "conversations/c1/items/i1",
            "conversations/{}/items/{}",
            [("c1", "conversations", True), ("i1", "items", False)],
            "items",
        ),
        (
            "vector_stores/v1/files/f1/content",
            "vector_stores/{}/files/{}/content",
            [("v1", "vector_stores", True), ("f1", "files", False)],
            "files",
        ),
        ("threads/runs", "threads/runs", [], "threads"),
        ("agents/sessions", "agents/sessions", [], "agent_sessions"),
        ("agents/a1", "agents/{}", [("a1", "agents", True)], "agents"),
        # What nobody knows is an id, but for the family itself.
        ("files/f1/new", "files/{}/{}", [("f1", "files", True), ("new", "files", False)], "files"),
        ("widgets", "widgets", [], "widgets"),
        ("widgets/w1/parts", "widgets/{}/{}", [("w1", "widgets", False), ("parts", "widgets", False)], "widgets"),
    ],
)
def test_what_a_path_is_about(path: str, form: str, ids: list[tuple[str, str, bool]], kind: str) -> None:
    """Its form, what it names, and the kind of what is there; the first id of a known family must be somebody's."""
    found = about(path)
    assert (found.form, found.kind) == (form, kind)
    assert [(each.id, each.kind, each.is_known) for each in found.ids] == ids
    assert found.is_known is (not path.startswith("widgets"))


@pytest.mark.parametrize(
    "path", ["organization", "organization/users/u1", "Organization/x", "projects/p", "webhook_endpoints"]
)
def test_what_is_the_organisations(path: str) -> None:
    """Is for nobody."""
    assert object_path_of(path.split("/")) is None


@pytest.mark.parametrize(
    ("path", "deletes"),
    [
        ("files/f1", "f1"),
        ("files", None),
        ("files/f1/content", None),
        ("conversations/c1/items/i1", "i1"),
        # The file stays where it was, and a version is a number.
        ("vector_stores/v1/files/f1", None),
        ("skills/s1/versions/1", None),
        ("widgets/w1", "w1"),
    ],
)
def test_what_a_delete_would_end(path: str, deletes: str | None) -> None:
    """The last id, if it is an object's own."""
    assert about(path).deletes == deletes


@pytest.mark.parametrize(
    ("path", "bills"),
    [
        ("responses/compact", True),
        ("responses/r1/cancel", False),
        ("chat/completions/c1", False),
        ("batches", True),
        ("batches/b1/cancel", False),
        ("threads/t1/runs", True),
        ("decisions", True),
    ],
)
def test_whose_usage_is_billed(path: str, bills: bool) -> None:
    """Not of what was billed when it was generated."""
    assert about(path).bills_usage is bills


def test_how_long_records_last() -> None:
    """As long as the object can."""
    assert (lifetime("responses"), lifetime("files"), lifetime("widgets")) == (RESPONSE_SECONDS, None, None)


@pytest.mark.parametrize("kind", sorted(OBJECT_KINDS))
def test_what_may_be_common_property_is_a_kind(kind: str) -> None:
    """Of an object that some path is about (SHARED_OBJECTS)."""
    paths = (kind, kind.replace("_", "/"), f"audio/{kind}", f"{kind.replace('_', '/')}/jobs", f"agents/{kind}")
    abouts = [object_path_of([*path.split("/"), "id_1"]) for path in paths]
    assert kind in {about.kind for about in abouts if about is not None and about.is_known}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("responses/resp_1", "responses"),
        ("responses/resp_1/cancel", "responses"),
        ("batches", "batches"),
        ("batches/batch_1", "batches"),
        ("batches/batch_1/cancel", "batches"),
        ("threads/runs", "threads/runs"),
        ("threads/t1/runs", "threads/runs"),
        ("threads/t1/runs/r1", "threads/runs"),
        ("threads/t1/runs/r1/cancel", "threads/runs"),
        ("threads/t1/runs/r1/submit_tool_outputs", "threads/runs"),
        ("evals/e1/runs", "evals/runs"),
        ("evals/e1/runs/r1", "evals/runs"),
        ("threads/t1/runs/r1/steps", ""),
        ("threads/t1", ""),
        ("responses/resp_1/input_items", ""),
        ("files/file_1", ""),
    ],
)
def test_what_tells_of_a_job(path: str, kind: str) -> None:
    """A batch or a run that is made, and each kind where it is seen."""
    about = object_path_of(path.split("/"))
    assert about is not None
    assert about.job_kind == kind
    assert about.begins_job is (path.rsplit("/", maxsplit=1)[-1] in ("batches", "runs"))
    assert about.has_jobs is (path == "threads/t1")
    if kind:
        assert about.bills_usage is about.begins_job


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("batches", True),
        ("messages/batches", True),
        ("threads/t1/runs", True),
        ("widgets", True),
        ("batches/b1/cancel", False),
        ("files", False),
        ("vector_stores/v1/files", False),
    ],
)
def test_what_may_generate(path: str, expected: bool) -> None:
    """All of which nobody knows that it does not."""
    about = object_path_of(path.split("/"))
    assert about is not None
    assert about.may_generate is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("threads/runs", True), ("threads/t/runs", True), ("videos", True), ("threads", False), ("evals", False)],
)
def test_what_takes_a_model(path: str, expected: bool) -> None:
    """Where something is generated at once by a model that the request may leave out."""
    about = object_path_of(path.split("/"))
    assert about is not None
    assert about.takes_model is expected
