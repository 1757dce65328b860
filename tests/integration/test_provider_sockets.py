"""WebSockets where there are several providers: each response is of the provider of its model.

About: `proxy/responses_session.py`, `proxy/realtime_session.py`, `routes/sockets.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import post
from tests.support.talks import talk

FILE = """
[providers.first]
type = "openai"
url = "{url}"
api_key = "env:THEIR_KEY"

[providers.second]
type = "openai"
url = "{url}"
api_key = "env:THEIR_KEY"

[providers.deaf]
type = "openai"
url = "{url}/nowhere"
api_key = "env:THEIR_KEY"

[providers.claude]
type = "anthropic"
url = "{url}"
api_key = "env:THEIR_KEY"

[models."gpt-4o-mini"]
targets = [{{ provider = "first" }}]

[models."mine"]
targets = [{{ provider = "second", model = "gpt-4o" }}]
price = {{ input = 1, output = 2 }}

[models."either"]
targets = [{{ provider = "second", model = "gpt-4o", weight = 1000 }}, {{ provider = "first", model = "gpt-4o-mini" }}]

[models."unheard"]
targets = [{{ provider = "deaf" }}]

[models."claude-haiku-5-5"]
targets = [{{ provider = "claude" }}]

[models."voice"]
targets = [{{ provider = "second", model = "gpt-realtime" }}]
price = {{ input = 1, output = 2, input_audio = 1, output_audio = 2 }}
"""


@pytest.fixture(scope="module")
def many(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> SentinelProcess:
    """A Sentinel with four providers, of which two are the same, and two speak no WebSockets."""
    file: Path = tmp_path_factory.mktemp("many") / "sentinel.toml"
    there = stack.simulators
    file.write_text(FILE.format(url=there.openai_url))
    return stack.sentinel(SENTINEL_CONFIG=str(file), THEIR_KEY=there.openai_key)


def lines(sentinel: SentinelProcess, user: str, count: int) -> list[dict[str, Any]]:
    """Of responses."""
    return [line for line in sentinel.ended(count, user=user) if line["model"]]


class TestResponses:
    async def test_go_to_the_provider_of_their_model(self, stack: Stack, many: SentinelProcess) -> None:
        """By its name there, at its price; and back again."""
        _, token = stack.user("switches@corp.test")
        async with talk(many, token) as one:
            for model, name in (("gpt-4o-mini", "gpt-4o-mini"), ("mine", "gpt-4o"), ("gpt-4o-mini", "gpt-4o-mini")):
                ended = (await one.ask(model=model))[-1]
                assert ended["type"] == "response.completed"
                assert stack.simulators.openai.calls[-1].body["model"] == name
        told = [(line["model"], line["provider"], line["cost_usd"] is not None) for line in lines(many, "switches", 3)]
        assert told == [("gpt-4o-mini", "first", False), ("mine", "second", True), ("gpt-4o-mini", "first", False)]

    async def test_stay_where_the_socket_is_open(self, stack: Stack, many: SentinelProcess) -> None:
        """Where that provider serves the model, too: what is not stored can be gone on from there alone."""
        _, token = stack.user("stays@corp.test")
        async with talk(many, token) as one:
            first = (await one.ask(model="gpt-4o-mini", store=False))[-1]["response"]
            more = await one.ask(model="either", store=False, previous_response_id=first["id"])
            assert more[-1]["type"] == "response.completed"
        assert [line["provider"] for line in lines(many, "stays", 2)] == ["first", "first"]

    @pytest.mark.parametrize(
        ("model", "status", "code"),
        [
            ("unheard", 426, "upgrade_required"),
            ("claude-haiku-5-5", 426, "upgrade_required"),
            ("nobodys", 404, "model_not_found"),
        ],
    )
    async def test_of_a_model_without_websockets(
        self, stack: Stack, many: SentinelProcess, model: str, status: int, code: str
    ) -> None:
        """An error that names `model`, at once and free of charge; the connection stays."""
        name = f"unheard{model[0]}"
        _, token = stack.user(f"{name}@corp.test")
        async with talk(many, token) as one:
            (refused,) = await one.ask(model=model)
            error = refused["error"]
            assert (refused["status"], error["code"], error["param"]) == (status, code, "model")
            assert (await one.ask())[-1]["type"] == "response.completed"
        assert stack.booked(1, f"{name}@corp.test")["ai_requests"] == 1


class TestRealtime:
    VOICE = "/v1/realtime?model=voice"

    async def said(self, one: Any, **session: Any) -> dict[str, Any]:
        """How the session is, and a response of it."""
        await one.say(type="session.update", session={"type": "realtime", "output_modalities": ["text"], **session})
        told = (await one.hear_until("session.updated", "error"))[-1]
        await one.say(type="response.create")
        assert (await one.hear_until("response.done", "error"))[-1]["type"] == "response.done"
        return dict(told)

    async def test_a_model_by_its_name_there(self, stack: Stack, many: SentinelProcess) -> None:
        """In the address and in the session; books have the client's, and it is priced as the file says."""
        _, token = stack.user("voice@corp.test")
        async with talk(many, token, self.VOICE) as one:
            told = await self.said(one, model="voice")
        assert told["session"]["model"] == "gpt-realtime"
        assert stack.simulators.openai.calls[-1].query == "model=gpt-realtime"
        assert stack.booked(1, "voice@corp.test")["ai_requests"] == 1
        ((model, cost),) = [(line["model"], line["cost_usd"]) for line in lines(many, "voice", 2)]
        assert model == "voice"
        assert cost > 0

    async def test_a_client_secret_opens_where_it_was_made(self, stack: Stack, many: SentinelProcess) -> None:
        """Nobody else knows it; what is said with it is of the model that it was made for."""
        _, token = stack.user("secret-voice@corp.test")
        body = {"session": {"type": "realtime", "model": "voice"}}
        made = post(many, token, body, "/v1/realtime/client_secrets")
        assert made.status == 200
        async with talk(many, made.json["value"], "/v1/realtime") as one:
            await self.said(one)
        stack.booked(2, "secret-voice@corp.test")
        found = [(line["model"], line["provider"]) for line in many.ended(3, user="secret-voice")]
        assert found[0] == ("voice", "second")
        assert sorted(found[1:]) == [("", "second"), ("voice", None)]
