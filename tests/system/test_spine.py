"""The main job, end to end, with the official SDK and the installed command."""

from __future__ import annotations

import pytest

from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import chat


async def test_a_whole_answer_is_relayed_and_reported(stack: Stack, sentinel: SentinelProcess) -> None:
    """The SDK gets the provider's answer, and Zion is told the provider's numbers, once."""
    _, token = stack.user("whole@corp.test")
    async with sdk(sentinel, token) as client:
        answer = await client.chat.completions.create(**chat("[[tokens=7]]"))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert stack.booked(1, "whole@corp.test") == {
        "ai_requests": 1,
        "ai_input_tokens": answer.usage.prompt_tokens,
        "ai_output_tokens": 7,
    }


@pytest.mark.parametrize("asked", [True, False])
async def test_the_usage_chunk_reaches_only_who_asked(stack: Stack, sentinel: SentinelProcess, asked: bool) -> None:
    """A stream carries the usage chunk if the client asked for it; it is charged either way."""
    email = f"stream{asked}@corp.test"
    _, token = stack.user(email)
    options = {"stream_options": {"include_usage": True}} if asked else {}
    async with sdk(sentinel, token) as client:
        stream = await client.chat.completions.create(**chat("[[tokens=9]]", stream=True, **options))
        chunks = [chunk async for chunk in stream]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([9] if asked else [])
    assert all(chunk.choices for chunk in chunks) is not asked
    assert stack.booked(1, email)["ai_output_tokens"] == 9
