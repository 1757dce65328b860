"""Requests that name a tier: a model is chosen, kept for a conversation, and changed where it fails.

About: `proxy/tiers.py`, `middleware/tier_router.py`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from sentinel.cache import keys
from sentinel.cache.redis import Store, open_store
from sentinel.endpoints.native import NATIVE
from sentinel.error import (
    InvalidType,
    ModelNotAllowed,
    ServiceUnavailable,
    UpstreamError,
    UpstreamTimeout,
    ZionUnavailable,
)
from sentinel.governance.port import AuthenticatedUser
from sentinel.governance.tiers import TierModel
from sentinel.middleware.tier_router import TierRouter
from tests.exchange.driver import DONE, INPUT_TOKENS, PROMPT, USER, Client, Stage, event, usage
from tests.exchange.test_reading_responses import JSON
from tests.support.memory_governance import MemoryGovernance
from tests.support.streams import entries

BO = AuthenticatedUser("bo", "bo@corp.test")
SMALL, OTHER, LARGE = (TierModel("openai", name) for name in ("gpt-4o-mini", "gpt-4.1-mini", "gpt-4o"))
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": usage(9, 2),
    }
).encode()
FAILURES = [(500, b"{}"), (503, b"{}"), (429, b"{}"), (401, b"{}"), (402, b"{}")]


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    stage = Stage(store, tmp_path)
    stage.provider.body, stage.provider.header_lines = WHOLE, JSON
    stage.governance.tier_models = {"simple": [SMALL], "moderate": [OTHER], "complex": []}
    return stage


async def ask(stage: Stage, **fields: Any) -> Client:
    client = Client(slow=False)
    client.body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], **fields}).encode()
    await asyncio.wait_for(stage.exchange(client, NATIVE).run(), 10)
    return client


def models(stage: Stage) -> list[str]:
    """Those that were asked for."""
    return [json.loads(body)["model"] for body in stage.provider.bodies]


def told(client: Client) -> tuple[str, str]:
    """The model and the tier that the answer's headers name."""
    lines = dict(line.split(": ") for line in client.side.header_lines.decode().split("\r\n")[:-1])
    return lines["x-sentinel-model"], lines["x-sentinel-tier"]


async def billed_models(stage: Stage) -> list[str]:
    found = await entries(stage.ledger.store, keys.account_keys(USER.id).outbox)
    return [json.loads(fields[b"who"])[3] for _, fields in found]


async def test_a_model_of_the_tier(stage: Stage) -> None:
    """It is asked for, named, counted in its tokens, and billed."""
    client = await ask(stage)
    assert (client.status, told(client)) == (200, ("gpt-4o-mini", "simple"))
    ChatCompletion.model_validate_json(client.got)
    await ask(stage, tier="moderate")
    assert models(stage) == ["gpt-4o-mini", "gpt-4.1-mini"]
    assert stage.ended[0].counted_input == INPUT_TOKENS
    assert await stage.settled() == {"req_1": (1, 9, 2), "req_2": (1, 9, 2)}
    assert await billed_models(stage) == ["gpt-4o-mini", "gpt-4.1-mini"]
    assert stage.governance.asked_for_tiers == 1


async def test_a_stream(stage: Stage) -> None:
    """Passes as it came."""
    stage.provider.pieces = [event("Hello"), event(usage=usage(11, 40)), DONE]
    stage.provider.header_lines = b"content-type: text/event-stream\r\n"
    client = await ask(stage, stream=True)
    assert client.got == event("Hello") + DONE
    assert told(client) == ("gpt-4o-mini", "simple")
    assert await stage.settled() == {"req_1": (1, 11, 40)}


@pytest.mark.parametrize(("tier", "field"), [("complex", "tier"), ("best", "tier")])
async def test_a_tier_that_has_no_models(stage: Stage, tier: str, field: str) -> None:
    """Nothing is asked or spent."""
    client = await ask(stage, tier=tier)
    error = json.loads(client.got)["error"]
    assert (client.status, error["code"], error["param"]) == (400, "invalid_request", field)
    assert (models(stage), await stage.settled()) == ([], {})


@pytest.mark.parametrize("failure", [*FAILURES, UpstreamError("x"), UpstreamTimeout("x")])
async def test_another_model_where_the_first_fails(stage: Stage, failure: Any) -> None:
    """Named in the answer, and billed, once; the first one is left alone for a while."""
    stage.governance.tier_models["simple"] = [SMALL, LARGE]
    stage.provider.refuses = [failure]
    client = await ask(stage)
    first, second = models(stage)
    assert {first, second} == {"gpt-4o-mini", "gpt-4o"}
    assert (client.status, told(client)) == (200, (second, "simple"))
    assert await stage.settled() == {"req_1": (1, 9, 2)}
    assert await billed_models(stage) == [second]
    for _ in range(10):
        await ask(stage)
    assert set(models(stage)[2:]) == {second}
    stage.now += 30
    for _ in range(40):
        await ask(stage)
    assert set(models(stage)[12:]) == {first, second}


@pytest.mark.parametrize("stream", [False, True])
async def test_all_fail(stage: Stage, stream: bool) -> None:
    """The client hears whose failure it is; with all of them left alone it is told when to come back."""
    stage.governance.tier_models["simple"] = [SMALL, LARGE]
    stage.provider.refuses = [(500, b"{}")] * 2
    client = await ask(stage, stream=stream)
    error = json.loads(client.got)["error"]
    assert (client.status, error["type"], error["code"], error["provider"]) == (
        502, "upstream_error", "provider_error", "openai",
    )  # fmt: skip
    assert len(models(stage)) == (1 if stream else 2)
    if stream:
        await ask(stage, stream=True)
    client = await ask(stage)
    assert (client.status, json.loads(client.got)["error"]["code"]) == (503, "service_unavailable")
    assert len(models(stage)) == 2
    assert await stage.settled() == {}
    stage.now += 30
    assert (await ask(stage)).status == 200


async def test_what_a_client_does_wrong_is_no_failure(stage: Stage) -> None:
    """Its 400 passes, and others go on with that model."""
    stage.provider.refuses = [(400, b'{"error":{"message":"no"}}')]
    client = await ask(stage)
    assert (client.status, client.got) == (400, b'{"error":{"message":"no"}}')
    assert (await ask(stage)).status == 200
    assert len(models(stage)) == 2


async def test_a_conversation_stays_with_its_model(stage: Stage) -> None:
    """A lower tier changes nothing, a higher one is kept from then on."""
    stage.governance.tier_models["simple"] = [SMALL, LARGE, *(TierModel("openai", f"m{n}") for n in range(9))]
    first = told(await ask(stage, conversation_id="c"))
    for _ in range(5):
        assert told(await ask(stage, conversation_id="c")) == first
    assert told(await ask(stage, conversation_id="c", tier="moderate")) == ("gpt-4.1-mini", "moderate")
    assert told(await ask(stage, conversation_id="c")) == ("gpt-4.1-mini", "moderate")
    assert len({told(await ask(stage, conversation_id=f"d{n}")) for n in range(30)}) > 1
    name = keys.session(USER.id, "c")
    assert 0 < await stage.ledger.store.command("PTTL", name) <= 60_000


async def test_a_conversation_whose_model_fails(stage: Stage) -> None:
    """Goes on with another, of the same provider if there is one; so it does where its model is no longer there."""
    elsewhere = [TierModel("other", f"m{n}") for n in range(9)]
    stage.governance.tier_models["simple"] = [SMALL, LARGE, *elsewhere]
    await stage.ledger.store.command(
        "SET", keys.session(USER.id, "c"), json.dumps({"provider": "openai", "model": "gpt-4o", "tier": "simple"})
    )
    stage.provider.refuses = [(500, b"{}"), (500, b"{}")]
    await ask(stage, conversation_id="c")
    assert models(stage)[0] == "gpt-4o"
    stage.now += 1
    again = told(await ask(stage, conversation_id="c"))
    assert again == ("gpt-4o-mini", "simple") or again[0].startswith("m")
    await stage.ledger.store.command(
        "SET", keys.session(USER.id, "d"), json.dumps({"provider": "openai", "model": "gone", "tier": "simple"})
    )
    assert told(await ask(stage, conversation_id="d"))[0] != "gone"


async def test_conversations_of_two_users(stage: Stage) -> None:
    """Two may have the same name for theirs."""
    stage.governance.tier_models["moderate"] = [OTHER]
    await stage.deps.tiers.choose(BO, "moderate", "c")
    assert told(await ask(stage, conversation_id="c")) == ("gpt-4o-mini", "simple")
    assert (await stage.deps.tiers.choose(BO, "simple", "c")).tier == "moderate"


async def test_a_conversation_that_begins_twice_at_once(stage: Stage) -> None:
    """Both get the model of the first; a higher tier wins."""
    stage.governance.tier_models["simple"] = [TierModel("openai", f"m{n}") for n in range(20)]
    chosen = await asyncio.gather(*(stage.deps.tiers.choose(USER, "simple", "c") for _ in range(20)))
    assert len({choice.model.model for choice in chosen}) == 1
    assert (await stage.deps.tiers.choose(USER, "moderate", "c")).model == OTHER


async def test_a_session_that_cannot_be_read(stage: Stage) -> None:
    """Is a new one."""
    await stage.ledger.store.command("SET", keys.session(USER.id, "c"), "[")
    assert told(await ask(stage, conversation_id="c")) == ("gpt-4o-mini", "simple")


def router(store: Store, governance: MemoryGovernance, clock: list[float]) -> TierRouter:
    return TierRouter(store, governance, session_seconds=60, config_seconds=60, clock=lambda: clock[0])


async def test_tiers_are_asked_for_once(store: Store) -> None:
    """By one of many at once; others find them in Redis; after their time they are asked for again."""
    governance, clock = MemoryGovernance(tier_models={"simple": [SMALL]}), [0.0]
    one, other = router(store, governance, clock), router(store, governance, clock)
    await asyncio.gather(*(one.choose(USER, "simple", None) for _ in range(10)))
    await other.choose(USER, "simple", None)
    assert governance.asked_for_tiers == 1
    await store.command("DEL", keys.tiers())
    governance.tier_models = {"simple": [LARGE]}
    assert (await one.choose(USER, "simple", None)).model == SMALL
    clock[0] = 61
    assert (await one.choose(USER, "simple", None)).model == LARGE
    assert governance.asked_for_tiers == 2


async def test_a_governance_that_is_away(store: Store) -> None:
    """Its last word counts; without one there are no tiers."""
    governance, clock = MemoryGovernance(tier_models={"simple": [SMALL]}), [0.0]
    one = router(store, governance, clock)
    governance.away = True
    with pytest.raises(ZionUnavailable):
        await one.choose(USER, "simple", None)
    governance.away = False
    await one.choose(USER, "simple", None)
    governance.away, clock[0] = True, 61
    await store.command("SET", keys.tiers(), "[")
    assert (await one.choose(USER, "simple", None)).model == SMALL


PLAN = AuthenticatedUser("cy", "cy@corp.test", ("gpt-4.1*",))


async def test_models_of_the_plan_alone(store: Store) -> None:
    """Also as another one where one has failed, and in a conversation that stayed with one the plan had once."""
    tiers = {"simple": [SMALL, OTHER], "moderate": [SMALL], "complex": []}
    one = router(store, MemoryGovernance(tier_models=tiers), [0.0])
    chosen = [await one.choose(PLAN, "simple", None) for _ in range(20)]
    assert {choice.model for choice in chosen} == {OTHER}
    assert one.another(chosen[0], PLAN) is None
    with pytest.raises(ModelNotAllowed) as refused:
        await one.choose(PLAN, "moderate", None)
    assert refused.value.param == "tier"
    with pytest.raises(InvalidType):
        await one.choose(PLAN, "complex", None)
    had = AuthenticatedUser("cy", "cy@corp.test", ("gpt-4o-mini",))
    assert (await one.choose(had, "simple", "trip")).model == SMALL
    assert (await one.choose(PLAN, "simple", "trip")).model == OTHER
    assert (await one.choose(PLAN, "simple", "trip")).model == OTHER


async def test_a_redis_that_is_away() -> None:
    """Conversations are forgotten meanwhile, and tiers asked for."""
    governance = MemoryGovernance(tier_models={"simple": [SMALL]})
    one = router(open_store("redis://127.0.0.1:1"), governance, [0.0])
    assert (await one.choose(USER, "simple", "c")).model == SMALL


async def test_nobody_is_well(store: Store) -> None:
    """The first that will be says when."""
    governance, clock = MemoryGovernance(tier_models={"simple": [SMALL]}), [0.0]
    one = router(store, governance, clock)
    choice = await one.choose(USER, "simple", None)
    one.failed(choice)
    clock[0] = 10
    with pytest.raises(ServiceUnavailable) as error:
        await one.choose(USER, "simple", None)
    assert error.value.retry_after_seconds == 20
    assert one.another(choice, USER) is None
    one.served(choice)
    assert (await one.choose(USER, "simple", None)).model == SMALL
