"""Every path with an id that the official SDK can ask for, asked for by whom the object does not belong to.

The paths come from the SDK itself: each method of each of its resources is called once, and what it asks for is noted.
`endpoints/families.py` has to know them.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import send

ADMIN_KEY = "operators-key"
ID = re.compile(r"obj_[a-z_]+")
NOT_CALLED = re.compile(r"_|with_|.*poll|wait|stream|connect|upload_file_chunked|parse|unwrap|verify_|.*_and_wait")
"""Methods that are made of others, or ask for nothing."""
SERVED_TO_ALL = {("GET", "models")}
"""What is no user's."""
OF_THE_ORGANISATION = ("organization", "projects", "webhook_endpoints")


def resources(of: Any, seen: set[type]) -> Iterator[Any]:
    """A client's resources, and theirs."""
    for name in dir(of):
        if name.startswith(("_", "with_")) or not hasattr(type(of), name):
            continue
        if isinstance(getattr(type(of), name), property) or hasattr(getattr(type(of), name), "func"):
            inner = getattr(of, name)
            if type(inner).__module__.startswith("openai.resources") and type(inner) not in seen:
                seen.add(type(inner))
                yield inner
                yield from resources(inner, seen)


def arguments(method: Any) -> dict[str, Any]:
    """Something for each argument without a default; ids can be told by their form."""
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            takes_text = "str" in str(parameter.annotation).split("[")[0] or name.endswith("_id")
            given[name] = f"obj_{name}" if takes_text else []
    return given


@cache
def asked_for() -> frozenset[tuple[str, str]]:
    """Method and path, after /v1, of all that the SDK can ask for and that has an id."""
    with ScriptedProvider() as provider, warnings.catch_warnings():
        # Of what is deprecated, and still there.
        warnings.simplefilter("ignore")
        client = openai.OpenAI(base_url=provider.url, api_key="key", admin_api_key="key", max_retries=0)
        for resource in resources(client, set()):
            for name, method in inspect.getmembers(resource, inspect.ismethod):
                if not NOT_CALLED.match(name):
                    call(method)
        client.close()
        calls = {(made.method, made.path.removeprefix("/v1/")) for made in provider.calls}
    return frozenset((method, path) for method, path in calls if ID.search(path))


def call(method: Any) -> None:
    given = arguments(method)
    kinds: tuple[Any, ...] = ([], b"content", {"type": "x"})
    for lists in kinds:
        try:
            method(**{name: lists if value == [] else value for name, value in given.items()})
        except Exception:  # noqa: BLE001 (what it makes of an empty answer, or of such arguments, is of no interest)
            continue
        return


def in_the_source() -> set[str]:
    """The forms of the paths with ids, as the SDK's source has them."""
    root = Path(openai.__file__).parent / "resources"
    texts = [file.read_text() for file in root.rglob("*.py")]
    found = {path for text in texts for path in re.findall(r'path_template\(\s*"/([^"]*)"', text)}
    return {form_of(path) for path in found if "{" in path}


def form_of(path: str) -> str:
    return re.sub(r"\{\w+\}|obj_[a-z_]+", "{}", path.partition("?")[0])


def test_all_of_the_sdk_is_asked_for() -> None:
    """No path with an id is left out, but for those of WebSockets, which are no methods."""
    left_out = in_the_source() - {form_of(path) for _, path in asked_for()}
    assert sorted(left_out) == ["live/sessions/{}/attach"]
    assert len(asked_for()) > 150


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(ADMIN_KEY=ADMIN_KEY)


def give(sentinel: SentinelProcess, id_: str, user: str) -> None:
    assert send(sentinel, "POST", f"/admin/objects/{id_}/owner", ADMIN_KEY, {"user": user}).status == 200


def of_users() -> list[tuple[str, str]]:
    paths = sorted(asked_for())
    return [pair for pair in paths if (pair[0], pair[1].split("/")[0]) not in SERVED_TO_ALL]


def test_another_users_and_nobodys(stack: Stack, sentinel: SentinelProcess) -> None:
    """404 for each, in whatever place of the path it stands; nothing of it reaches the provider."""
    _, token = stack.user("bo@corp.test")
    for name in ("ana", "bo"):
        stack.user(f"{name}@corp.test")
    calls = stack.simulators.openai.calls
    before = [call for call in calls if call.path != "/v1/models"]
    wrong: list[str] = []
    for method, path in of_users():
        body: dict[str, Any] | None = {} if method != "GET" else None
        ids = ID.findall(path)
        for number, foreign in enumerate(ids):
            mine = [f"{id_}_{number}_{method}_{abs(hash(path))}".lower() for id_ in ids]
            asked = path
            for id_, own in zip(ids, mine, strict=True):
                asked = asked.replace(id_, own, 1)
            for own in mine[:number]:
                give(sentinel, own, "bo")
            if not number:
                # Nobody's.
                answer = send(sentinel, method, f"/v1/{asked}", token, body)
                wrong += [] if is_not_found(answer, path) else [f"nobody's {foreign}: {method} {path}: {answer.body!r}"]
            give(sentinel, mine[number], "ana")
            answer = send(sentinel, method, f"/v1/{asked}", token, body)
            wrong += [] if is_not_found(answer, path) else [f"{foreign}: {method} {path}: {answer.body!r}"]
    assert wrong == []
    assert [call for call in calls if call.path != "/v1/models"] == before


def is_not_found(answer: Any, path: str) -> bool:
    code = "unknown_url" if path.startswith(OF_THE_ORGANISATION) else "not_found"
    return bool(answer.status == 404 and answer.error["code"] == code)
