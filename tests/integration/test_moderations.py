"""POST /v1/moderations, /v1/responses/input_tokens, /v1/responses/compact: what each costs, and what it needs.

About: `endpoints/moderations.py`, `endpoints/input_tokens.py`, `endpoints/compact.py`, `dev/beside.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import COMPACT, INPUT_TOKENS, MODERATIONS, RESPONSES, post

pytestmark = pytest.mark.usefixtures("no_faults")

MODEL = "gpt-4o-mini"


def asked(text: Any = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, **fields}


# --------------------------------------------------------------------------------------------------------- moderations


async def test_a_moderation_costs_one_request(stack: Stack, sentinel: SentinelProcess) -> None:
    """And no tokens, which a used-up subscription of them does not keep anybody from."""
    limits, used = {"ai_output_tokens": 10, "ai_input_tokens": 10}, {"ai_output_tokens": 10, "ai_input_tokens": 9}
    _, token = stack.user("moderated@corp.test", limits=limits, used=used)
    async with sdk(sentinel, token) as api:
        answer = await api.moderations.create(input=["one text", "and another that is longer than what is left"])
    assert [result.flagged for result in answer.results] == [False, False]
    assert stack.booked(1, "moderated@corp.test")["ai_input_tokens"] == 9  # As before.


def test_a_moderation_is_booked_under_the_default_model(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Where it names none; its body reaches the provider as it came."""
    stack.simulators.openai.calls.clear()
    sent = b'{ "input":"hi" }'
    assert post(sentinel, token, sent, MODERATIONS).status == 200
    assert [call.raw for call in stack.simulators.openai.calls if call.path == MODERATIONS] == [sent]
    assert sentinel.ended()[-1]["model"] == "omni-moderation-latest"
    assert post(sentinel, token, {}, MODERATIONS).is_error(400, "missing_required_parameter", param="input")


# -------------------------------------------------------------------------------------------------------- input tokens


async def test_the_sdk_gets_its_count(stack: Stack, sentinel: SentinelProcess) -> None:
    """The provider's; it is not billed."""
    _, token = stack.user("counted@corp.test", limits={"ai_requests": 2})
    async with sdk(sentinel, token) as api:
        for _ in range(3):
            assert (await api.responses.input_tokens.count(**asked())).input_tokens == 9
    assert post(sentinel, token, asked("[[tokens=1]]"), RESPONSES).status == 200
    assert stack.booked(1, "counted@corp.test")["ai_requests"] == 1


@pytest.mark.parametrize("status", [404, 405])
def test_a_provider_without_such_a_path_is_stood_in_for(
    provider: ScriptedProvider, scripted: SentinelProcess, token: str, status: int
) -> None:
    """By our own count; what it says of the model stands."""
    provider.says(b'{"error":{"message":"Invalid URL"}}', status=status)
    answer = post(scripted, token, asked(), INPUT_TOKENS)
    assert (answer.status, answer.json) == (200, {"object": "response.input_tokens", "input_tokens": 9})
    provider.says(b'{"error":{"message":"The model `gpt-4o-mini` does not exist"}}', status=404)
    assert post(scripted, token, asked(), INPUT_TOKENS).status == 404


# ---------------------------------------------------------------------------------------------------------- compaction


async def test_the_sdk_compacts(stack: Stack, sentinel: SentinelProcess) -> None:
    """Billed as a response, and its user's."""
    _, token = stack.user("compacts@corp.test")
    async with sdk(sentinel, token) as api:
        answer = await api.responses.compact(**asked("[[tokens=7]] a long talk"))
    assert answer.usage.output_tokens == 7
    assert stack.booked(1, "compacts@corp.test")["ai_output_tokens"] == 7
    _, other = stack.user("does-not@corp.test")
    mine = post(sentinel, token, asked(previous_response_id=answer.id), INPUT_TOKENS)
    theirs = post(sentinel, other, asked(previous_response_id=answer.id), INPUT_TOKENS)
    assert mine.status == 200
    assert theirs.is_error(404, "not_found", param="previous_response_id")


def test_a_compaction_needs_room(stack: Stack, sentinel: SentinelProcess) -> None:
    """For as much as goes in, and a little more for next to nothing."""
    _, token = stack.user("poor-compaction@corp.test", limits={"ai_output_tokens": 1_500})
    assert post(sentinel, token, asked("word " * 2_000), COMPACT).is_error(
        429, "insufficient_quota", "insufficient_quota"
    )
    assert post(sentinel, token, asked("word " * 100), COMPACT).status == 200
    assert post(sentinel, token, {"model": MODEL}, COMPACT).is_error(400, "missing_required_parameter", param="input")
