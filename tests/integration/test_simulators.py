"""Zion, OpenAI and the demo user together, as `sentinel dev` starts them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from sentinel.dev.simulators import DEMO_EMAIL, DEMO_EXTERNAL_ID, Simulators, start_simulators
from tests.support.client import ask


@pytest.fixture
def simulators() -> Iterator[Simulators]:
    with start_simulators() as simulators:
        yield simulators


def test_the_demo_user_can_start_at_once(simulators: Simulators) -> None:
    """The token is valid, and the limits are finite, monthly and generous."""
    profile = ask(
        "GET", f"{simulators.zion_url}/api/v1/users/me", headers={"Authorization": f"Bearer {simulators.demo_token}"}
    ).json
    assert (profile["data"]["email"], profile["data"]["externalId"]) == (DEMO_EMAIL, DEMO_EXTERNAL_ID)
    limits = ask(
        "GET", f"{simulators.zion_url}/api/v1/limits/external/demo", headers={"x-api-key": simulators.zion_key}
    ).json
    (limit,) = limits["data"]["limits"]
    assert limit["resetPeriod"] == "MONTHLY"
    assert limit["aiRequests"]["remaining"] == limit["aiRequests"]["limit"] == 100_000


async def test_a_crowd_is_answered_and_billed_exactly(simulators: Simulators) -> None:
    """Many streams at once, each with its own directive, get what they ordered, and are billed for just that."""
    async with openai.AsyncOpenAI(
        api_key=simulators.openai_key, base_url=simulators.openai_url, max_retries=0, timeout=30
    ) as client:

        async def words(count: int) -> int:
            stream = await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": f"[[tokens={count} delay=0.001]]"}],
                stream=True,
                extra_headers={"x-request-id": f"req_{count}"},
            )
            return sum([len((chunk.choices[0].delta.content or "").split()) async for chunk in stream])

        assert await asyncio.gather(*(words(count) for count in range(1, 41))) == list(range(1, 41))
    billed = {bill.request_id: (bill.completion_tokens, bill.state) for bill in simulators.openai.billed}
    assert billed == {f"req_{count}": (count, "complete") for count in range(1, 41)}


def test_each_may_be_away_alone(simulators: Simulators) -> None:
    """One service vanishes and returns at its address while the other goes on."""
    url = simulators.zion_url
    simulators.zion_server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask("GET", f"{url}/api/v1/tiers/config")
    with openai.OpenAI(api_key=simulators.openai_key, base_url=simulators.openai_url, max_retries=0) as client:
        assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    simulators.zion_server.start()
    assert ask("GET", f"{url}/api/v1/tiers/config", headers={"x-api-key": simulators.zion_key}).json["success"] is True
