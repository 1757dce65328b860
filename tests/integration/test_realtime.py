"""GET /v1/realtime, with the official SDK and without: what passes, what is admitted, what is booked, how it ends.

About: `proxy/realtime_session.py`, `proxy/realtime_response.py`, `cache/client_secrets.py`, `dev/realtime.py`.
"""

from __future__ import annotations

import asyncio
import base64
import signal
from typing import Any

import openai
import pytest
from websockets.exceptions import InvalidStatus

from sentinel.dev.generation import Billed
from sentinel.dev.realtime import SOUND_BYTES, STOPS_SPEAKING
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import post, send
from tests.support.talks import Talk, talk
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.usefixtures("no_faults")

PATH = "/v1/realtime?model=gpt-realtime"
TEXT: Any = {"type": "realtime", "output_modalities": ["text"]}
WORDS = 13


def item(text: str) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def sound(seconds: float, end: bytes = b"") -> str:
    return base64.b64encode(bytes(round(48_000 * seconds)) + end).decode()


def billed(stack: Stack) -> Billed:
    """What the provider charges for the last response."""
    return stack.simulators.openai.billed[-1]


async def asked(one: Talk, text: str = "Say hello", **session: Any) -> list[dict[str, Any]]:
    """A response to a text, as text."""
    await one.say(type="session.update", session={**TEXT, **session})
    await one.say(type="conversation.item.create", item=item(text))
    await one.say(type="response.create")
    return await one.hear_until("response.done", "error")


async def test_another_users_voice(stack: Stack, sentinel: SentinelProcess) -> None:
    """Is not found, in a session or for a key; what was asked with it does not reach the provider."""
    _, token = stack.user("mimic@corp.test")
    session = {**TEXT, "audio": {"output": {"voice": {"id": "voice_1"}}}}
    async with talk(sentinel, token, PATH) as one:
        await one.say(type="session.update", event_id="e1", session=session)
        error = (await one.hear_until("error", "session.updated"))[-1]["error"]
        assert (error["code"], error["event_id"]) == ("not_found", "e1")
        session["audio"]["output"]["voice"] = "marin"
        await one.say(type="session.update", session=session)
        assert (await one.hear_until("error", "session.updated"))[-1]["type"] == "session.updated"
    body = {"session": {**TEXT, "audio": {"output": {"voice": {"id": "voice_1"}}}}}
    answer = send(sentinel, "POST", "/v1/realtime/client_secrets", token, body)
    assert answer.is_error(404, "not_found", param="session.audio.output.voice.id")


class TestWithTheSdk:
    async def test_a_response(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Text comes in pieces, and what usage tells is booked."""
        _, token = stack.user("realtime-sdk@corp.test")
        async with sdk(sentinel, token).realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(session=TEXT)
            await connection.conversation.item.create(item=item("Say hello"))
            await connection.response.create()
            said, usage = "", None
            async for event in connection:
                if event.type == "response.output_text.delta":
                    said += event.delta
                if event.type == "response.done":
                    usage = event.response.usage
                    break
        assert said == "Hello! I am a simulated model, and happy to help."
        assert usage is not None
        assert stack.booked(1, "realtime-sdk@corp.test") == {
            "ai_requests": 1,
            "ai_input_tokens": usage.input_tokens,
            "ai_output_tokens": usage.output_tokens,
        }

    @pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # The SDK is for an older websockets.
    def test_a_response_without_an_event_loop(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """The other half of the SDK; with sound, which is output beside its transcript."""
        _, token = stack.user("realtime-sync@corp.test")
        client = openai.OpenAI(base_url=f"{sentinel.url}/v1", api_key=token)
        heard = 0
        with client, client.realtime.connect(model="gpt-realtime") as connection:
            connection.conversation.item.create(item=item("Say hello"))
            connection.response.create()
            for event in connection:
                if event.type == "response.output_audio.delta":
                    heard += len(base64.b64decode(event.delta))
                if event.type == "response.done":
                    break
        assert heard == WORDS * SOUND_BYTES
        assert stack.booked(1, "realtime-sync@corp.test")["ai_output_tokens"] == 3 * WORDS


class TestASession:
    async def test_passes_events_as_they_are(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """Also what nobody here knows: both ways."""
        async with talk(sentinel, token, PATH) as one:
            session = await one.hear()
            assert (session["type"], session["session"]["model"]) == ("session.created", "gpt-realtime")
            odd = '{"type" : "new.event", "event_id":"e1",  "x": [1.0, {}]}'
            await one.socket.send(odd)
            error = await one.hear()
            assert (error["type"], error["error"]["event_id"]) == ("error", "e1")
            await one.socket.send("no JSON")
            assert (await one.hear())["error"]["code"] == "invalid_event"
            calls = stack.simulators.openai.calls
            assert calls[-1].headers["authorization"] == f"Bearer {stack.simulators.openai_key}"
            assert "sec-websocket-protocol" not in calls[-1].headers
            assert calls[-1].query == "model=gpt-realtime"

    async def test_has_several_responses_each_billed_once(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """The second is given what was said before."""
        _, token = stack.user("realtime-two@corp.test")
        async with talk(sentinel, token, PATH) as one:
            usages = [(await asked(one))[-1]["response"]["usage"] for _ in range(2)]
        assert stack.booked(2, "realtime-two@corp.test") == {
            "ai_requests": 2,
            "ai_input_tokens": sum(usage["input_tokens"] for usage in usages),
            "ai_output_tokens": 2 * WORDS,
        }

    async def test_a_response_by_itself_is_billed(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """When the user stops speaking; so is the transcription, whose tokens are no request."""
        _, token = stack.user("realtime-vad@corp.test")
        heard = {"turn_detection": {"type": "server_vad"}, "transcription": {"model": "gpt-4o-mini-transcribe"}}
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session={**TEXT, "audio": {"input": heard}})
            await one.say(type="input_audio_buffer.append", audio=sound(1))
            await one.say(type="input_audio_buffer.append", audio=sound(1, STOPS_SPEAKING))
            heard_all = await one.hear_until("response.done")
        kinds = [event["type"] for event in heard_all]
        assert "conversation.item.input_audio_transcription.completed" in kinds
        usage = heard_all[-1]["response"]["usage"]
        wait_until(lambda: stack.used("realtime-vad@corp.test")["ai_input_tokens"] >= usage["input_tokens"] + 21)
        assert stack.used("realtime-vad@corp.test") == {
            "ai_requests": 1,
            "ai_input_tokens": usage["input_tokens"] + 21,
            "ai_output_tokens": WORDS + 3,
        }

    async def test_a_transcription_told_in_seconds(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Ten tokens a second, as sound that is heard."""
        _, token = stack.user("realtime-seconds@corp.test")
        async with talk(sentinel, token, PATH) as one:
            await one.say(
                type="session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
            )
            await one.say(type="input_audio_buffer.append", audio=sound(1.5))
            await one.say(type="input_audio_buffer.commit")
            await one.hear_until("conversation.item.input_audio_transcription.completed")
        wait_until(lambda: stack.used("realtime-seconds@corp.test")["ai_input_tokens"] == 15)

    async def test_a_response_that_the_provider_refuses_costs_nothing(
        self, stack: Stack, sentinel: SentinelProcess
    ) -> None:
        """What was reserved for it is free again."""
        _, token = stack.user("realtime-refused@corp.test", limits={"ai_requests": 1})
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", event_id="e7", response={"instructions": "[[status=500]]"})
            error = (await one.hear_until("error"))[-1]
            assert error["error"]["event_id"] == "e7"
            assert (await asked(one))[-1]["type"] == "response.done"
        assert stack.booked(1, "realtime-refused@corp.test")["ai_requests"] == 1

    async def test_is_cancelled_by_the_client(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """What usage tells then is booked."""
        _, token = stack.user("realtime-cancel@corp.test")
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", response={"instructions": "[[tokens=500 delay=0.01]]"})
            await one.hear_until("response.output_text.delta")
            await one.say(type="response.cancel")
            done = (await one.hear_until("response.done"))[-1]["response"]
        assert done["status"] == "cancelled"
        assert stack.booked(1, "realtime-cancel@corp.test")["ai_output_tokens"] == done["usage"]["output_tokens"]


class TestLimits:
    async def test_a_used_up_subscription_ends_the_session(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """An error, and a clean close; the next session is refused before it begins."""
        _, token = stack.user("realtime-quota@corp.test", limits={"ai_requests": 2})
        async with talk(sentinel, token, PATH) as one:
            for _ in range(2):
                assert (await asked(one))[-1]["type"] == "response.done"
            await one.say(type="response.create", event_id="e9")
            error = (await one.hear_until("error"))[-1]["error"]
            assert error["code"] == "insufficient_quota"
            assert await one.ended() == (1008, "insufficient_quota")
        with pytest.raises(InvalidStatus) as refused:
            async with talk(sentinel, token, PATH):
                pass
        assert refused.value.response.status_code == 429
        assert stack.booked(2, "realtime-quota@corp.test")["ai_requests"] == 2

    @pytest.mark.parametrize("most", [{}, {"max_output_tokens": 200}, {"max_output_tokens": "inf"}])
    async def test_the_provider_is_told_what_is_left(
        self, stack: Stack, sentinel: SentinelProcess, most: dict[str, Any]
    ) -> None:
        """So that it ends the response itself; the session stays, until more is asked of it."""
        email = f"realtime-told-{most.get('max_output_tokens', 'nothing')}@corp.test"
        _, token = stack.user(email, limits={"ai_output_tokens": 30})
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", response={"instructions": "[[tokens=300]]", **most})
            heard = await one.hear_until("response.done", "error")
            assert heard[-1]["response"]["status"] == "incomplete"
            assert heard[-1]["response"]["usage"]["output_tokens"] == 30
            assert sum(event["type"] == "response.output_text.delta" for event in heard) == 30
            await one.say(type="input_audio_buffer.clear")
            await one.hear_until("input_audio_buffer.cleared")
            await one.say(type="response.create")
            assert (await one.hear_until("error"))[-1]["error"]["code"] == "insufficient_quota"
            assert (await one.ended())[0] == 1008
        assert billed(stack).state == "complete"
        assert stack.booked(1, email)["ai_output_tokens"] == 30

    async def test_less_than_is_left_stays_what_the_session_has(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Also right after the client has asked for it, and with sound, each word of which is two tokens more."""
        _, token = stack.user("realtime-less@corp.test", limits={"ai_output_tokens": 30})
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session={"type": "realtime", "max_output_tokens": 12})
            await one.say(type="response.create", response={"instructions": "[[tokens=300]]"})
            done = (await one.hear_until("response.done", "error"))[-1]["response"]
            assert (done["status"], done["usage"]["output_tokens"]) == ("incomplete", 12)
            await one.say(type="response.create", response={"instructions": "[[tokens=300]]", "max_output_tokens": 90})
            done = (await one.hear_until("response.done", "error"))[-1]["response"]
            assert (done["status"], done["usage"]["output_tokens"]) == ("incomplete", 18)
        assert stack.booked(2, "realtime-less@corp.test")["ai_output_tokens"] == 30

    @pytest.mark.parametrize("by_itself", [False, True])
    async def test_a_response_is_cut_where_the_output_ends(
        self, stack: Stack, sentinel: SentinelProcess, *, by_itself: bool
    ) -> None:
        """Of a provider that knows no maximum, or was asked by nobody: it is cancelled, and told as incomplete."""
        email = f"realtime-output-{by_itself}@corp.test".lower()
        _, token = stack.user(email, limits={"ai_output_tokens": 30})
        speech = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}} if by_itself else {}
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session={**TEXT, **speech})
            await one.say(type="conversation.item.create", item=item("[[tokens=300 delay=0.005 ignores_max]]"))
            if by_itself:
                await one.say(type="input_audio_buffer.append", audio=sound(0.1, STOPS_SPEAKING))
            else:
                await one.say(type="response.create")
            heard = await one.hear_until("error")
            assert heard[-1]["error"]["code"] == "insufficient_quota"
            assert sum(event["type"] == "response.output_text.delta" for event in heard) == 30
            begun = next(event["response"] for event in heard if event["type"] == "response.created")
            assert heard[-2]["type"] == "response.done"
            done = heard[-2]["response"]
            assert (done["id"], done["status"], done["usage"]["output_tokens"]) == (begun["id"], "incomplete", 30)
            assert (await one.ended())[0] == 1008
        await until(lambda: billed(stack).state in ("cancelled", "complete"), "the end at the provider")
        assert billed(stack).completion_tokens < 300
        assert stack.booked(1, email) == {
            "ai_requests": 1,
            "ai_input_tokens": done["usage"]["input_tokens"],
            "ai_output_tokens": 30,
        }

    async def test_a_response_by_itself_is_cancelled_where_nothing_is_left(
        self, stack: Stack, sentinel: SentinelProcess
    ) -> None:
        """As if it had been asked for."""
        _, token = stack.user("realtime-late@corp.test", limits={"ai_requests": 1})
        async with talk(sentinel, token, PATH) as one:
            await asked(one, audio={"input": {"turn_detection": {"type": "server_vad"}}})
            await one.say(type="conversation.item.create", item=item("[[tokens=300 delay=0.01]]"))
            await one.say(type="input_audio_buffer.append", audio=sound(0.1, STOPS_SPEAKING))
            heard = await one.hear_until("error")
            assert "response.created" not in [event["type"] for event in heard]
            assert (await one.ended())[0] == 1008
        await until(lambda: billed(stack).state in ("cancelled", "complete"), "the end at the provider")
        assert billed(stack).completion_tokens < 300
        assert stack.booked(1, "realtime-late@corp.test")["ai_requests"] == 1

    async def test_a_full_window_refuses_a_response_alone(self, stack: Stack) -> None:
        """The session stays."""
        limited = stack.sentinel(RATE_LIMITS="ai_requests=1/60s")
        _, token = stack.user("realtime-window@corp.test")
        async with talk(limited, token, PATH) as one:
            await asked(one)
            await one.say(type="response.create", event_id="e3")
            error = (await one.hear_until("error"))[-1]["error"]
            assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", "e3")
            await one.say(type="input_audio_buffer.clear")
            await one.hear_until("input_audio_buffer.cleared")

    async def test_a_crowd_gets_no_more_than_the_limit(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Over many sessions at once."""
        _, token = stack.user("realtime-crowd@corp.test", limits={"ai_requests": 5})

        async def one_of(_: int) -> str:
            try:
                async with talk(sentinel, token, PATH) as one:
                    return str((await asked(one))[-1]["type"])
            except InvalidStatus:
                return "error"

        ends = await asyncio.gather(*map(one_of, range(20)))
        assert ends.count("response.done") == 5
        assert stack.booked(5, "realtime-crowd@corp.test")["ai_requests"] == 5


class TestWhoIsLockedOut:
    async def test_gets_no_further_response(self, stack: Stack) -> None:
        """The caller is looked at before each, as over HTTP."""
        forgetful = stack.sentinel(ADMIN_KEY="operators-key", JWT_CACHE_TTL_SECONDS="1", CACHE_STALE_SECONDS="0")
        user, token = stack.user("realtime-locked@corp.test")
        async with talk(forgetful, token, PATH) as one:
            await asked(one)
            user.status = "forbidden"
            assert send(forgetful, "POST", "/admin/users/realtime-locked/refresh", "operators-key").status == 200
            await one.say(type="response.create")
            assert (await one.hear_until("error"))[-1]["error"]["code"] == "access_denied"
            assert (await one.ended())[0] == 1008


class TestLeaving:
    async def test_a_client_pays_for_what_it_got(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Text and sound."""
        _, token = stack.user("realtime-leaves@corp.test")
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="response.create", response={"instructions": "[[tokens=900 delay=0.02]]"})
            for _ in range(5):
                await one.hear_until("response.output_audio.delta")
        await until(lambda: billed(stack).state == "cancelled", "the end at the provider")
        assert 15 <= stack.booked(1, "realtime-leaves@corp.test")["ai_output_tokens"] < 900

    async def test_a_provider_that_drops_closes_the_session(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """What came is paid."""
        _, token = stack.user("realtime-drops@corp.test")
        async with talk(sentinel, token, PATH) as one:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", response={"instructions": "[[tokens=50 break_after=20]]"})
            assert (await one.ended())[0] == 1011
        assert stack.booked(1, "realtime-drops@corp.test")["ai_output_tokens"] == 20

    async def test_a_provider_that_is_silent_is_given_up(self, stack: Stack) -> None:
        """After UPSTREAM_IDLE_TIMEOUT_SECONDS within a response, and not between two: what came is paid."""
        _, token = stack.user("realtime-silent@corp.test")
        sentinel = stack.sentinel(UPSTREAM_IDLE_TIMEOUT_SECONDS="2")
        async with talk(sentinel, token, PATH) as one, talk(sentinel, token, PATH) as resting:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", response={"instructions": "[[tokens=50 hang_after=20]]"})
            heard = await one.hear_until("error")
            assert heard[-1]["error"]["code"] == "upstream_timeout"
            assert "response.done" not in {message["type"] for message in heard}
            assert (await one.ended())[0] == 1013
            assert (await asked(resting))[-1]["response"]["status"] == "completed"
        assert stack.booked(2, "realtime-silent@corp.test")["ai_output_tokens"] == 20 + billed(stack).completion_tokens
        assert {line["outcome"] for line in sentinel.ended(2)} >= {"broken", "ok"}

    async def test_a_shutdown_waits_for_a_response(self, stack: Stack) -> None:
        """Then the session ends; one that rests, at once."""
        _, token = stack.user("realtime-shutdown@corp.test")
        leaving = stack.sentinel()
        async with talk(leaving, token, PATH) as busy, talk(leaving, token, PATH) as resting:
            await busy.say(type="session.update", session=TEXT)
            await busy.say(type="response.create", response={"instructions": "[[tokens=40 delay=0.03]]"})
            await busy.hear_until("response.output_text.delta")
            leaving.signal(signal.SIGTERM)
            assert (await resting.ended())[0] == 1001
            assert (await busy.hear_until("response.done"))[-1]["response"]["status"] == "completed"
            assert (await busy.ended())[0] == 1001
        assert leaving.stop() == 0
        assert stack.booked(1, "realtime-shutdown@corp.test")["ai_output_tokens"] == 40

    async def test_at_the_end_of_the_grace_a_response_is_cut(self, stack: Stack) -> None:
        """And what was delivered is booked."""
        _, token = stack.user("realtime-grace@corp.test")
        leaving = stack.sentinel(SHUTDOWN_GRACE_SECONDS="1")
        async with talk(leaving, token, PATH) as one:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", response={"instructions": "[[tokens=50 hang_after=7]]"})
            for _ in range(7):
                await one.hear_until("response.output_text.delta")
            leaving.signal(signal.SIGTERM)
            assert (await one.ended())[0] == 1001
        assert leaving.stop() == 0
        assert stack.booked(1, "realtime-grace@corp.test")["ai_output_tokens"] == 7
        await until(lambda: billed(stack).state == "cancelled", "the end at the provider")

    async def test_a_killed_process_has_noted_what_it_delivered(self, stack: Stack) -> None:
        """Its lease ends, and another process bills the last checkpoint."""
        _, token = stack.user("realtime-killed@corp.test")
        victim = stack.sentinel(LEASE_SECONDS="2")
        async with talk(victim, token, PATH) as one:
            await one.say(type="session.update", session=TEXT)
            await one.say(type="response.create", response={"instructions": "[[tokens=3000 delay=0.01]]"})
            for _ in range(250):
                await one.hear_until("response.output_text.delta")
            victim.kill()
        stack.sentinel(LEASE_SECONDS="2")
        assert 1 <= stack.booked(1, "realtime-killed@corp.test")["ai_output_tokens"] <= 3000


class TestBackPressure:
    async def test_a_slow_reader_holds_up_the_provider(
        self, stack: Stack, sentinel: SentinelProcess, token: str
    ) -> None:
        """Sound waits at the provider, not here."""
        async with talk(sentinel, token, PATH, max_queue=1) as one:
            tokens = 4_000
            await one.say(type="response.create", response={"instructions": f"[[tokens={tokens}]]"})
            await one.hear_until("response.output_audio.delta")
            one.socket.transport.pause_reading()
            seen = -1

            def rests() -> bool:
                nonlocal seen
                before, seen = seen, billed(stack).completion_tokens
                return 0 < seen == before

            await until(rests, "the provider to be held up")
            assert seen < 3 * tokens
            one.socket.transport.resume_reading()
            assert (await one.hear_until("response.done"))[-1]["response"]["usage"]["output_tokens"] == 3 * tokens


class TestHandshake:
    async def test_takes_the_token_as_browsers_send_it(
        self, stack: Stack, sentinel: SentinelProcess, token: str
    ) -> None:
        """As a subprotocol, which is not named in the answer, nor passed on."""
        offered: Any = ["realtime", f"openai-insecure-api-key.{token}", "openai-beta.realtime-v1"]
        async with talk(sentinel, None, PATH, subprotocols=offered) as one:
            assert one.socket.subprotocol == "realtime"
            assert (await one.hear())["type"] == "session.created"
        call = stack.simulators.openai.calls[-1]
        assert token not in str(call.headers)
        assert call.headers["openai-beta"] == "realtime=v1"
        assert token not in (sentinel.folder / "stdout").read_text()

    @pytest.mark.parametrize("options", [{}, {"subprotocols": ["realtime", "openai-insecure-api-key.nobodys"]}])
    async def test_needs_a_token_that_is_known(self, sentinel: SentinelProcess, options: dict[str, Any]) -> None:
        """Refused in plain HTTP."""
        with pytest.raises(InvalidStatus) as refused:
            async with talk(sentinel, None, PATH, **options):
                pass
        assert refused.value.response.status_code == 401

    async def test_needs_an_offer(self, sentinel: SentinelProcess, token: str) -> None:
        """426, which names what to ask for."""
        answer = send(sentinel, "GET", PATH, token)
        assert answer.is_error(426, "upgrade_required")
        assert answer.headers["upgrade"] == "websocket"

    async def test_of_a_call_of_another_is_not_found(self, sentinel: SentinelProcess, token: str) -> None:
        """No call was made through us."""
        with pytest.raises(InvalidStatus) as refused:
            async with talk(sentinel, token, "/v1/realtime?call_id=rtc_1"):
                pass
        assert refused.value.response.status_code == 404

    async def test_webrtc_is_refused(self, sentinel: SentinelProcess, token: str) -> None:
        """Its sound would go past us."""
        answer = send(sentinel, "POST", "/v1/realtime/calls", token, b"v=0")
        assert answer.is_error(404, "unknown_url")


class TestClientSecrets:
    @pytest.mark.parametrize("name", ["client_secrets", "sessions", "transcription_sessions"])
    async def test_opens_a_session_of_its_user(self, stack: Stack, sentinel: SentinelProcess, name: str) -> None:
        """With the session that it was made for; what that says is billed as the user's."""
        email = f"realtime-{name}@corp.test"
        _, token = stack.user(email)
        session = {"type": "realtime", "model": "gpt-realtime-mini", "instructions": "Be brief."}
        body = {"session": session} if name == "client_secrets" else session
        made = post(sentinel, token, body, f"/v1/realtime/{name}").json
        secret = made["value"] if name == "client_secrets" else made["client_secret"]["value"]
        async with talk(sentinel, secret, "/v1/realtime") as one:
            created = (await one.hear())["session"]
            assert (created["model"], created["instructions"]) == ("gpt-realtime-mini", "Be brief.")
            await asked(one)
        assert stack.simulators.openai.calls[-1].headers["authorization"] == f"Bearer {secret}"
        assert stack.booked(2, email)["ai_output_tokens"] == WORDS
        assert secret not in (sentinel.folder / "stdout").read_text()

    async def test_of_nobody_opens_nothing(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Also one that the provider has made, and not through us."""
        made = stack.simulators.openai.secrets.make("/v1/realtime/client_secrets", {})
        with pytest.raises(InvalidStatus) as refused:
            async with talk(sentinel, made["value"], "/v1/realtime"):
                pass
        assert refused.value.response.status_code == 401

    async def test_opens_nothing_else(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """It is for realtime alone."""
        secret = post(sentinel, token, {}, "/v1/realtime/client_secrets").json["value"]
        assert send(sentinel, "GET", "/v1/models", secret).status == 401
