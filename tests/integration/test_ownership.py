"""Users are apart: what one has created no other can name, nor what nobody has created through Sentinel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.cache.owners import OwnerRecords
from sentinel.cache.redis import Store, open_store
from sentinel.endpoints.families import RESPONSE_SECONDS
from sentinel.endpoints.references import Reference
from sentinel.error import NotFound, RedisUnavailable
from sentinel.middleware.ownership import Ownership
from tests.support import surface
from tests.support.client import Answer
from tests.support.crowd import post
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import COUNT_TOKENS, MESSAGES, chat

PARAM = "messages[0].content[1].file.file_id"


def refers(*ids: str, kind: str = "files") -> list[Reference]:
    return [Reference(id_, kind, f"ids[{number}]") for number, id_ in enumerate(ids)]


async def test_only_ones_own(store: Store) -> None:
    """The error names the first that is not, by its field."""
    ownership = Ownership(OwnerRecords(store), ())
    await ownership.record("ana", ["f1", "f2"])
    await ownership.record("bo", ["f3"])
    await ownership.check("ana", refers("f1", "f2", "f1"))
    for other in ("f3", "f4", "", "f" * 1000, "\ud800"):
        with pytest.raises(NotFound) as error:
            await ownership.check("ana", refers("f1", other))
        assert error.value.param == "ids[1]"


async def test_it_stays_its_creators(store: Store) -> None:
    """Whoever else records it later."""
    ownership = Ownership(OwnerRecords(store), ())
    await asyncio.gather(*(ownership.record(user, ["f1"]) for user in ("ana", "bo")))
    await ownership.check("ana", refers("f1"))
    with pytest.raises(NotFound):
        await ownership.check("bo", refers("f1"))


async def test_how_long_a_record_lasts(store: Store) -> None:
    """For ever, of a response a month, of a container a month after its last use; until it is deleted or given away."""
    ownership, key = Ownership(OwnerRecords(store), ()), keys.owner
    await ownership.record("ana", ["f1"], None)
    await ownership.record("ana", ["c1", "r1"], 100)
    await ownership.check("ana", [*refers("f1"), *refers("c1", kind="containers"), *refers("r1", kind="responses")])
    assert await store.command("TTL", key(b"f1")) == -1
    assert 100 < await store.command("TTL", key(b"c1")) <= RESPONSE_SECONDS
    assert 0 < await store.command("TTL", key(b"r1")) <= 100
    await ownership.give("bo", "f1")
    assert await ownership.owner("f1") == "bo"
    await ownership.forget("f1")
    assert await ownership.owner("f1") is None
    assert not await ownership.give("bo", "f" * 1000)


async def test_what_a_list_shows(store: Store) -> None:
    """One's own; of a family that nobody knows also what is nobody's. However many there are."""
    ownership, many = Ownership(OwnerRecords(store), ()), [f"m{number}" for number in range(500)]
    await ownership.record("ana", many[:200])
    await ownership.record("bo", many[200:400])
    assert await ownership.visible("ana", many, only_own=True) == set(many[:200])
    assert await ownership.visible("ana", many, only_own=False) == {*many[:200], *many[400:]}


async def test_what_nobody_knows(store: Store) -> None:
    """An id of a kind that is not known is refused where it is another's alone."""
    ownership = Ownership(OwnerRecords(store), ())
    await ownership.record("bo", ["x1"])
    assert not await ownership.check("ana", [Reference("x2", "", "", is_known=False)])
    with pytest.raises(NotFound):
        await ownership.check("ana", [Reference("x1", "", "", is_known=False)])


async def test_common_property(store: Store) -> None:
    """Of kinds that are shared nobody is asked; of others as before."""
    ownership = Ownership(OwnerRecords(store), {"files"})
    await ownership.check("ana", refers("f1"))
    with pytest.raises(NotFound):
        await ownership.check("ana", refers("f1") + refers("r1", kind="responses"))


async def test_a_redis_that_is_away() -> None:
    """Nothing is let through unseen; what is created meanwhile is nobody's."""
    ownership = Ownership(OwnerRecords(open_store("redis://127.0.0.1:1")), ())
    with pytest.raises(RedisUnavailable):
        await ownership.check("ana", refers("f1"))
    await ownership.record("ana", ["f1"])
    await ownership.forget("f1")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


async def ask(sentinel: SentinelProcess, token: str, file: str) -> Answer:
    parts = [{"type": "text", "text": "Sum this up"}, {"type": "file", "file": {"file_id": file}}]
    return await post(sentinel, token, {**chat(""), "messages": [{"role": "user", "content": parts}]})


async def test_a_file_in_a_prompt(stack: Stack, sentinel: SentinelProcess) -> None:
    """Found by whom it belongs to; for others the request costs nothing and is not sent on."""
    ana, token = stack.user("ana@corp.test")
    _, other_token = stack.user("bo@corp.test")
    store = open_store(stack.store.url)
    await store.start()
    await Ownership(OwnerRecords(store), ()).record(ana.external_id or "", ["file-1"])
    await store.close()
    assert (await ask(sentinel, token, "file-1")).status == 200
    for answer in (await ask(sentinel, other_token, "file-1"), await ask(sentinel, token, "file-2")):
        assert answer.is_error(404, "not_found", param=PARAM)
    assert len(stack.simulators.openai.billed) == 1


async def test_files_that_all_may_use(stack: Stack) -> None:
    """By the setting."""
    _, token = stack.user("cy@corp.test")
    sentinel = stack.sentinel(SHARED_OBJECTS="files, responses")
    assert (await ask(sentinel, token, "file-of-the-team")).status == 200


@pytest.mark.parametrize("path", [MESSAGES, COUNT_TOKENS])
def test_a_file_and_a_container_in_a_message(sentinel: SentinelProcess, token: str, path: str) -> None:
    """Whose they are not is told in Anthropic's shape, also by who only counts; a tool's own arguments are no ids."""
    turn = {"role": "user", "content": "Say hello"}
    body = {"model": "claude-haiku-5-5", "messages": [turn], **({"max_tokens": 9} if path == MESSAGES else {})}
    answer = surface.post(sentinel, token, {**body, "container": "container_1"}, path)
    assert answer.is_error(404, "not_found", param="container")
    document = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    answer = surface.post(sentinel, token, {**body, "messages": [{"role": "user", "content": [document]}]}, path)
    assert answer.is_error(404, "not_found", param="messages[0].content[0].source.file_id")
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"file_id": "mine"}}
    body["messages"] = [turn, {"role": "assistant", "content": [call]}]
    assert surface.post(sentinel, token, body, path, **{"anthropic-version": "2023-06-01"}).status == 200


async def respond(sentinel: SentinelProcess, token: str, **fields: Any) -> Answer:
    body = {"model": "gpt-4o-mini", "input": "Say hello", **fields}
    return await post(sentinel, token, body, "/v1/responses")


def response_of(answer: Answer) -> dict[str, Any]:
    """The response, also where it was streamed."""
    assert answer.status == 200
    if answer.body.startswith(b"{"):
        return dict(answer.json)
    last = answer.body.strip().split(b"\n\n")[-1]
    return dict(json.loads(last.split(b"data: ", 1)[1])["response"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_its_creators(stack: Stack, sentinel: SentinelProcess, stream: bool) -> None:
    """To go on from, by its id and by those of its items; nobody else can, nor from one that was not kept."""
    _, token = stack.user(f"creator-{stream}@corp.test")
    _, other_token = stack.user(f"other-{stream}@corp.test")
    first = response_of(await respond(sentinel, token, stream=stream))
    item = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert (await respond(sentinel, token, previous_response_id=first["id"])).status == 200
    assert (await respond(sentinel, token, input=[item])).status == 200
    refused = await respond(sentinel, other_token, previous_response_id=first["id"])
    assert refused.is_error(404, "not_found", param="previous_response_id")
    assert (await respond(sentinel, other_token, input=[item])).is_error(404, "not_found", param="input[0].id")
    forgotten = response_of(await respond(sentinel, token, stream=stream, store=False))
    answer = await respond(sentinel, token, previous_response_id=forgotten["id"])
    assert answer.is_error(404, "not_found", param="previous_response_id")


OTHERS = ("cntr_1", "skill_1", "ig_1", "rs_1", "ws_1")


def shell(**environment: Any) -> dict[str, Any]:
    return {"tools": [{"type": "shell", "environment": environment}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (shell(type="container_reference", container_id="cntr_1"), "tools[0].environment.container_id"),
        (
            shell(type="container_auto", skills=[{"type": "skill_reference", "skill_id": "skill_1"}]),
            "tools[0].environment.skills[0].skill_id",
        ),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, "input[0].id"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "content": None}]}, "input[0].id"),
        ({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "input[0].id"),
    ],
)
async def test_what_others_tools_have_made(
    stack: Stack, sentinel: SentinelProcess, fields: dict[str, Any], param: str
) -> None:
    """A container, a skill, and items that the provider would fill in from their ids alone: nobody else's."""
    _, token = stack.user("curious@corp.test")
    store = open_store(stack.store.url)
    await store.start()
    await Ownership(OwnerRecords(store), ()).record("somebody", OTHERS)
    await store.close()
    assert (await respond(sentinel, token, **fields)).is_error(404, "not_found", param=param)
