"""What is passed through, as users of the official SDK see it: two of them side by side, each with their own objects.

The simulator has them: `dev/objects.py`, `dev/forms.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import chat


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@dataclass
class Two:
    """Two users: one who creates things, and another."""

    one: openai.AsyncOpenAI
    other: openai.AsyncOpenAI


@pytest.fixture
async def two(stack: Stack, sentinel: SentinelProcess, request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    name = request.node.name.replace("[", "-").rstrip("]")
    async with AsyncExitStack() as exits:
        tokens = [stack.user(f"{each}-{name}@corp.test")[1] for each in ("one", "other")]
        yield Two(*[await exits.enter_async_context(sdk(sentinel, token)) for token in tokens])


async def not_found(*asked: Awaitable[Any]) -> None:
    """Each of these is told that there is no such object."""
    for each in asked:
        with pytest.raises(openai.NotFoundError) as caught:
            await each
        assert caught.value.code == "not_found"


async def ids_of(pages: Any) -> list[str]:
    """Over all pages, as the SDK reads them by itself."""
    return [each.id async for each in pages]


async def uploaded(client: openai.AsyncOpenAI, content: bytes = b"{}\n", purpose: Any = "batch") -> str:
    return (await client.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose=purpose)).id


async def test_files(stack: Stack, two: Two) -> None:
    """Uploaded, listed over pages that are full of others', downloaded byte for byte, deleted."""
    content = bytes(range(256)) * 1000
    mine = [await uploaded(two.one, content)]
    theirs = [await uploaded(two.other) for _ in range(5)]
    mine.append(await uploaded(two.one))
    assert await ids_of(two.one.files.list(limit=1)) == mine[::-1]
    assert await ids_of(two.other.files.list(limit=2)) == theirs[::-1]
    assert await ids_of(two.one.files.list(order="asc", limit=1)) == mine
    assert (await two.one.files.content(mine[0])).content == content
    assert (await two.one.files.retrieve(mine[0])).bytes == len(content)
    other = two.other.files
    await not_found(other.retrieve(mine[0]), other.content(mine[0]), other.delete(mine[0]))
    await not_found(two.one.files.retrieve("file-nobodys"), other.list(after=mine[0])._get_page())
    assert (await two.one.files.delete(mine[0])).deleted
    await not_found(two.one.files.retrieve(mine[0]))
    assert mine[0] not in stack.simulators.openai.objects.kept


async def test_uploads(two: Two) -> None:
    """In parts; what they become is a file of the same user's."""
    upload = await two.one.uploads.create(bytes=6, filename="a.txt", mime_type="text/plain", purpose="assistants")
    parts = [(await two.one.uploads.parts.create(upload.id, data=io.BytesIO(part))).id for part in (b"abc", b"def")]
    await not_found(
        two.other.uploads.complete(upload.id, part_ids=parts),
        two.other.uploads.parts.create(upload.id, data=b"x"),
        two.other.uploads.cancel(upload.id),
    )
    own = await two.other.uploads.create(bytes=6, filename="b.txt", mime_type="text/plain", purpose="assistants")
    await not_found(two.other.uploads.complete(own.id, part_ids=parts))
    file = (await two.one.uploads.complete(upload.id, part_ids=parts)).file
    assert file is not None
    assert (await two.one.files.content(file.id)).content == b"abcdef"
    await not_found(two.other.files.content(file.id))


async def test_batches(two: Two) -> None:
    """Of a file of one's own; the file that a batch makes is its user's."""
    file = await uploaded(two.one)
    batch = await two.one.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata={"file_id": "any"}
    )
    await not_found(
        two.other.batches.create(input_file_id=file, endpoint="/v1/responses", completion_window="24h"),
        two.other.batches.retrieve(batch.id),
        two.other.batches.cancel(batch.id),
    )
    assert (await two.one.batches.retrieve(batch.id)).status == "in_progress"
    assert await ids_of(two.one.batches.list()) == [batch.id]
    assert await ids_of(two.other.batches.list()) == []
    output = (await two.one.batches.cancel(batch.id)).output_file_id
    assert output is not None
    assert (await two.one.files.content(output)).content == b""
    await not_found(two.other.files.content(output))


async def test_what_a_batch_names(two: Two) -> None:
    """Is looked for in all lines of its file, however it was uploaded (`proxy/batch_lines.py`)."""
    foreign = await uploaded(two.other)
    request = {"custom_id": foreign, "url": "/v1/responses", "body": {"input": "x" * 10_000}}
    fine = b"".join(json.dumps({**request, "n": n}).encode() + b"\n" for n in range(200))
    part = {"type": "input_file", "file_id": foreign}
    bad = json.dumps({**request, "body": {"input": [{"role": "user", "content": [part]}]}}).encode()
    create: Callable[..., Any] = two.one.batches.create
    options = {"endpoint": "/v1/responses", "completion_window": "24h"}
    assert (await create(input_file_id=await uploaded(two.one, fine), **options)).id
    for lines in (fine + bad, bad + b"\n" + fine, bad):
        await not_found(create(input_file_id=await uploaded(two.one, lines), **options))
    upload = await two.one.uploads.create(bytes=len(bad), filename="a", mime_type="text/plain", purpose="batch")
    parts = [
        (await two.one.uploads.parts.create(upload.id, data=io.BytesIO(half))).id for half in (bad[:150], bad[150:])
    ]
    file = (await two.one.uploads.complete(upload.id, part_ids=parts)).file
    assert file is not None
    await not_found(create(input_file_id=file.id, **options))
    for odd in (b'{"file_id": "f"', b"x" * 9_000_000):
        with pytest.raises(openai.BadRequestError):
            await create(input_file_id=await uploaded(two.one, odd), **options)


async def test_vector_stores(two: Two) -> None:
    """With files of one's own; a file that leaves a store stays its user's."""
    file, foreign = await uploaded(two.one), await uploaded(two.other)
    stores = two.one.vector_stores
    store = await stores.create(name="mine")
    await stores.files.create(store.id, file_id=file)
    await not_found(
        stores.files.create(store.id, file_id=foreign),
        stores.create(file_ids=[file, foreign]),
        two.other.vector_stores.retrieve(store.id),
        two.other.vector_stores.update(store.id, name="theirs"),
        two.other.vector_stores.files.list(store.id)._get_page(),
        two.other.vector_stores.search(store.id, query="x")._get_page(),
        two.other.vector_stores.delete(store.id),
    )
    assert (await stores.update(store.id, name="still mine")).name == "still mine"
    assert await ids_of(stores.files.list(store.id)) == [file]
    assert (await stores.files.retrieve(file, vector_store_id=store.id)).id == file
    assert (await stores.files.delete(file, vector_store_id=store.id)).deleted
    assert (await two.one.files.retrieve(file)).id == file
    assert await ids_of(stores.list()) == [store.id]
    assert await ids_of(two.other.vector_stores.list()) == []
    assert (await stores.delete(store.id)).deleted


@pytest.mark.parametrize("stream", [False, True])
async def test_responses(two: Two, stream: bool) -> None:
    """Retrieved, continued, looked into and deleted by whoever asked for them."""
    asked: Callable[..., Any] = two.one.responses.create
    made = await asked(model="gpt-4o-mini", input="Say hello", stream=stream)
    id_ = [event async for event in made][-1].response.id if stream else made.id
    other = two.other.responses
    await not_found(
        other.retrieve(id_),
        other.cancel(id_),
        other.delete(id_),
        other.input_items.list(id_)._get_page(),
        other.create(model="gpt-4o-mini", input="And?", previous_response_id=id_),
        two.one.responses.retrieve("resp_nobodys"),
    )
    assert (await two.one.responses.retrieve(id_)).output_text
    assert len(await ids_of(two.one.responses.input_items.list(id_))) == 1
    assert (await two.one.responses.cancel(id_)).id == id_
    await two.one.responses.delete(id_)
    await not_found(two.one.responses.retrieve(id_))


async def test_conversations(two: Two) -> None:
    """Their items are below them."""
    mine = await two.one.conversations.create(metadata={"a": "b"})
    said: Any = [{"type": "message", "role": "user", "content": "hi"}]
    items = (await two.one.conversations.items.create(mine.id, items=said)).data
    item = items[0].id
    assert item is not None
    other = two.other.conversations
    theirs = await other.create()
    await not_found(
        other.retrieve(mine.id),
        other.update(mine.id, metadata={}),
        other.delete(mine.id),
        other.items.create(mine.id, items=said),
        other.items.list(mine.id)._get_page(),
        other.items.retrieve(item, conversation_id=mine.id),
        other.items.retrieve(item, conversation_id=theirs.id),
        other.items.delete(item, conversation_id=theirs.id),
    )
    assert await ids_of(two.one.conversations.items.list(mine.id)) == [item]
    assert (await two.one.conversations.items.retrieve(item, conversation_id=mine.id)).id == item
    assert (await two.one.conversations.delete(mine.id)).deleted is True


@pytest.mark.parametrize("stream", [False, True])
async def test_stored_chat_completions(two: Two, stream: bool) -> None:
    """Only those that were to be kept are anybody's."""
    create: Callable[..., Any] = two.one.chat.completions.create
    made = await create(**chat("[[tokens=2]]", store=True, stream=stream))
    id_ = [chunk.id async for chunk in made][-1] if stream else made.id
    forgotten = await create(**chat("[[tokens=2]]"))
    other = two.other.chat.completions
    await not_found(
        other.retrieve(id_),
        other.update(id_, metadata={}),
        other.delete(id_),
        two.one.chat.completions.retrieve(forgotten.id),
    )
    assert (await two.one.chat.completions.retrieve(id_)).id == id_
    assert await ids_of(two.one.chat.completions.list()) == [id_]
    assert await ids_of(other.list()) == []
    assert (await two.one.chat.completions.delete(id_)).deleted


async def test_containers_and_jobs(two: Two) -> None:
    """And whatever else is a family: the rule is one."""
    container = await two.one.containers.create(name="c")
    file = await two.one.containers.files.create(container.id, file=("a.txt", b"abc"))
    content = await two.one.containers.files.content.retrieve(file.id, container_id=container.id)
    assert content.content == b"abc"
    theirs = await two.other.containers.create(name="d")
    await not_found(
        two.other.containers.retrieve(container.id),
        two.other.containers.files.retrieve(file.id, container_id=theirs.id),
        two.other.containers.files.content.retrieve(file.id, container_id=container.id),
    )
    training, foreign = await uploaded(two.one, purpose="fine-tune"), await uploaded(two.other, purpose="fine-tune")
    jobs = two.one.fine_tuning.jobs
    job = await jobs.create(model="gpt-4o-mini", training_file=training)
    await not_found(
        jobs.create(model="gpt-4o-mini", training_file=foreign),
        two.other.fine_tuning.jobs.retrieve(job.id),
        two.other.fine_tuning.jobs.cancel(job.id),
    )
    assert await ids_of(jobs.list()) == [job.id]
    assert await ids_of(two.other.fine_tuning.jobs.list()) == []
    assert (await jobs.cancel(job.id)).status == "cancelled"
