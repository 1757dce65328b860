"""Zion's contract, held by the simulator (`sentinel.dev.zion`) and by the built-in governance alike.

Whatever a test of the proxy learns with the simulator is so with the service, too. Tests are over plain HTTP; those of
the last class ask as the proxy does (`sentinel.zion.client`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import msgspec
import pytest

from sentinel.dev.accounts import ResetPeriod
from sentinel.dev.server import Server
from sentinel.dev.tiers import TIERS_CONFIG
from sentinel.dev.zion import ZionSimulator
from sentinel.error import AccessDenied, InvalidApiKey
from sentinel.governance.port import Outcome, PlainAnswer
from sentinel.governance.service import directory
from sentinel.governance.tiers import TierModel
from sentinel.limits.policy import Cost
from sentinel.zion.client import ZionClient
from tests.support.client import Answer, request
from tests.support.governance import API_KEY, Governance, governance, sqlite_url
from tests.support.memory_governance import Item, plain

LIMITS = {"ai_requests": 10, "ai_input_tokens": 1_000, "ai_output_tokens": None}
PERIODS: list[ResetPeriod] = ["DAILY", "WEEKLY", "MONTHLY", "NEVER"]


class Zion(Protocol):
    """Something that speaks the contract, and what must be done behind its back."""

    shape: Literal["one", "three"]

    @property
    def url(self) -> str:
        """Where it is."""

    @property
    def key(self) -> str:
        """What it takes as `x-api-key`."""

    def add_user(self, email: str, external_id: str | None = None, period: ResetPeriod = "MONTHLY") -> str:
        """Add a user with LIMITS; their id."""

    def token(self, email: str) -> str:
        """A good token of theirs."""

    def ended_token(self, email: str) -> str:
        """One that has expired."""

    def revoke(self, token: str) -> None:
        """Make it no good."""

    def forbid(self, email: str) -> None:
        """Let them use no AI."""


@dataclass
class Simulated:
    """The simulator."""

    url: str
    zion: ZionSimulator

    @property
    def key(self) -> str:
        return self.zion.api_key

    @property
    def shape(self) -> Literal["one", "three"]:
        return "one" if self.zion.limit_shape == "C" else "three"

    @shape.setter
    def shape(self, shape: Literal["one", "three"]) -> None:
        self.zion.limit_shape = "C" if shape == "one" else "A"

    def add_user(self, email: str, external_id: str | None = None, period: ResetPeriod = "MONTHLY") -> str:
        return self.zion.add_user(email, external_id=external_id, limits=LIMITS, reset_period=period).id

    def token(self, email: str) -> str:
        return self.zion.token(self.zion.user(email))

    def ended_token(self, email: str) -> str:
        return self.zion.token(self.zion.user(email), -1)

    def revoke(self, token: str) -> None:
        self.zion.revoke(token)

    def forbid(self, email: str) -> None:
        self.zion.user(email).status = "forbidden"


@dataclass
class BuiltIn:
    """The built-in governance."""

    house: Governance
    key: str = API_KEY
    shape: Literal["one", "three"] = "one"
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.house.url

    def add_user(self, email: str, external_id: str | None = None, period: ResetPeriod = "MONTHLY") -> str:
        self.house.set_plan(period, requests=10, input_tokens=1_000, period=period.lower())
        return self.house.add_user(email, period, external_id=external_id).id

    def token(self, email: str) -> str:
        new = self.house.add_key(email)
        self.ids[new.key] = new.id
        return new.key

    def ended_token(self, email: str) -> str:
        ending = self.house.add_key(email, expires_ms=self.house.now() + 60_000)
        self.house.ahead_ms = 60_000
        return ending.key

    def revoke(self, token: str) -> None:
        with self.house.service.database.writing() as connection:
            directory.revoke_key(connection, self.ids[token], self.house.now())

    def forbid(self, email: str) -> None:
        self.house.change_user(email, disabled=True)


@pytest.fixture(params=["simulator", "sqlite", "postgresql"])
def zion(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Zion]:
    with contextlib.ExitStack() as stack:
        if request.param == "simulator":
            simulator = ZionSimulator()
            simulator.dedupe = True
            yield Simulated(stack.enter_context(Server(simulator.app)).url, simulator)
            return
        tiers = tmp_path / "tiers.json"
        tiers.write_bytes(msgspec.json.encode(TIERS_CONFIG))
        url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")
        yield BuiltIn(stack.enter_context(governance(url, governance_tiers_file=str(tiers))))


def call(zion: Zion, method: str, path: str, body: object = None, **headers: str) -> Answer:
    """With Zion's key."""
    raw = None if body is None else msgspec.json.encode(body)
    sent = {"x-api-key": zion.key, "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return request(int(zion.url.rpartition(":")[2]), method, f"/api/v1{path}", raw, sent)


def me(zion: Zion, authorization: str) -> Answer:
    """Whose token it is."""
    return request(
        int(zion.url.rpartition(":")[2]), "GET", "/api/v1/users/me", headers={"authorization": authorization}
    )


def data(answer: Answer) -> Any:
    """What a success tells."""
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
    assert answer.json.keys() == {"success", "data"}
    assert answer.json["success"] is True
    return answer.json["data"]


def refused(answer: Answer, status: int) -> str:
    """The code of a refusal in its envelope."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    assert answer.json.keys() == {"success", "error"}
    assert answer.json["success"] is False
    assert answer.json["error"]["message"]
    return str(answer.json["error"]["code"])


def limits(zion: Zion, identity: str) -> Any:
    """As they are told, in the shape that is asked for."""
    query = "?shape=three" if zion.shape == "three" else ""
    return data(call(zion, "GET", f"/limits/external/{quote(identity, safe='')}{query}"))


def increment(email: str = "ana@corp.test", **more: Any) -> dict[str, Any]:
    return {"email": email, "aiInputTokens": 31, "aiOutputTokens": 7, "aiRequests": 1, "timestamp": now(), **more}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def batch(zion: Zion, *items: dict[str, Any], **headers: str) -> Answer:
    return call(zion, "POST", "/usage/external/batch-increment", {"increments": list(items)}, **headers)


class TestUsersMe:
    def test_who_is_calling(self, zion: Zion) -> None:
        """All fields that the contract knows; an external id only where there is one."""
        ana, bo = zion.add_user("ana@corp.test", "ext-7"), zion.add_user("bo@corp.test")
        told = data(me(zion, f"Bearer {zion.token('ana@corp.test')}"))
        assert (told["id"], told["email"], told["externalId"]) == (ana, "ana@corp.test", "ext-7")
        assert told["emailVerified"] is True
        assert datetime.fromisoformat(told["createdAt"]).tzinfo == UTC
        assert {"name", "lastLoginAt"} <= told.keys()
        told = data(me(zion, f"Bearer {zion.token('bo@corp.test')}"))
        assert (told["id"], told["externalId"]) == (bo, None)

    def test_tokens_of_nobody(self, zion: Zion) -> None:
        """Unknown, revoked, expired, of another scheme, none: 401. A user who may use no AI: 403."""
        zion.add_user("ana@corp.test")
        good, revoked = zion.token("ana@corp.test"), zion.token("ana@corp.test")
        zion.revoke(revoked)
        ended = zion.ended_token("ana@corp.test")
        for shown in (f"Bearer {revoked}", f"Bearer {ended}", "Bearer x.y.z", f"Basic {good}", good, "Bearer", ""):
            assert refused(me(zion, shown), 401) == "UNAUTHORIZED"
        data(me(zion, f"Bearer {good}"))
        zion.forbid("ana@corp.test")
        assert refused(me(zion, f"Bearer {good}"), 403) == "FORBIDDEN"


class TestLimits:
    @pytest.mark.parametrize("period", PERIODS)
    def test_in_one_element(self, zion: Zion, period: ResetPeriod) -> None:
        """With the calendar's period, and what is left, or more than that is spent."""
        user = zion.add_user("ana@corp.test", "ext-7", period)
        data(batch(zion, increment(aiInputTokens=1_500)))
        told = limits(zion, "ext-7")
        assert (told["userId"], told["externalId"]) == (user, "ext-7")
        (limit,) = told["limits"]
        assert (limit["name"], limit["displayName"], limit["unit"]) == ("ai_usage", "AI usage", "mixed")
        assert limit["aiRequests"] == {"limit": 10, "used": 1, "remaining": 9}
        assert limit["aiInputTokens"] == {"limit": 1_000, "used": 1_500, "remaining": -500}
        assert limit["aiOutputTokens"] == {"limit": None, "used": 7, "remaining": None}
        in_period(limit, period)

    @pytest.mark.parametrize("period", PERIODS)
    def test_in_three_elements(self, zion: Zion, period: ResetPeriod) -> None:
        """One for each metric, each with its period."""
        zion.add_user("ana@corp.test", "ext-7", period)
        zion.shape = "three"
        data(batch(zion, increment()))
        told = {limit["name"]: limit for limit in limits(zion, "ext-7")["limits"]}
        amounts = {name: (limit["limit"], limit["used"], limit["remaining"]) for name, limit in told.items()}
        assert amounts == {
            "ai_requests": (10, 1, 9),
            "ai_input_tokens": (1_000, 31, 969),
            "ai_output_tokens": (None, 7, None),
        }
        shown = {name: (limit["displayName"], limit["unit"]) for name, limit in told.items()}
        assert shown == {
            "ai_requests": ("Requests", "requests"),
            "ai_input_tokens": ("Input tokens", "tokens"),
            "ai_output_tokens": ("Output tokens", "tokens"),
        }
        assert len({limit["limitId"] for limit in told.values()}) == 3
        for limit in told.values():
            in_period(limit, period)

    def test_whose_they_are(self, zion: Zion) -> None:
        """By the external id, else by the id; whatever letters it has."""
        bo = zion.add_user("bo@corp.test")
        assert limits(zion, bo)["userId"] == bo
        ana = zion.add_user("ana@corp.test", "a/b?c=d%20e+f")
        for identity in ("a/b?c=d%20e+f", ana):
            told = limits(zion, identity)
            assert (told["userId"], told["externalId"]) == (ana, identity)

    @pytest.mark.parametrize("identity", ["ext-8", "EXT-7", "%00", "%ff", "%ed%a0%80", "x" * 3_000])
    def test_of_nobody(self, zion: Zion, identity: str) -> None:
        """404, whatever was asked for."""
        zion.add_user("ana@corp.test", "ext-7")
        assert refused(call(zion, "GET", f"/limits/external/{identity}"), 404) == "NOT_FOUND"


def in_period(limit: dict[str, Any], kind: ResetPeriod) -> None:
    """Whether this moment is in the period, which begins and ends as the calendar has it."""
    assert limit["resetPeriod"] == kind
    if kind == "NEVER":
        assert (limit["periodStart"], limit["periodEnd"]) == (None, None)
        return
    start, end = limit["periodStart"], limit["periodEnd"]
    assert start.endswith("T00:00:00Z")
    assert end.endswith("T23:59:59Z")
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    assert first <= datetime.now(UTC) <= last
    days = {"DAILY": (1,), "WEEKLY": (7,), "MONTHLY": (28, 29, 30, 31)}[kind]
    assert (last - first).days + 1 in days
    assert kind != "WEEKLY" or first.weekday() == 0
    assert kind != "MONTHLY" or first.day == 1


class TestBatches:
    def test_what_each_item_comes_to(self, zion: Zion) -> None:
        """In their order; two of one user add up; one of nobody fails alone; beyond a limit is booked, too."""
        zion.add_user("ana@corp.test", "ext-7")
        items = [increment(model="m1"), increment("no@corp.test"), increment(model="m2", aiInputTokens=2_000)]
        told = data(batch(zion, *items))
        assert (told["processed"], told["failed"]) == (3, 1)
        first, second, third = told["results"]
        for result, requests, inputs, outputs in ((first, 1, 31, 7), (third, 2, 2_031, 14)):
            assert (result["email"], result["limitName"], result["success"]) == ("ana@corp.test", "ai_usage", True)
            assert result["aiRequests"] == {"newValue": requests, "limit": 10}
            assert result["aiInputTokens"] == {"newValue": inputs, "limit": 1_000}
            assert result["aiOutputTokens"] == {"newValue": outputs, "limit": None}
        assert (second["email"], second["success"], second["error"]) == ("no@corp.test", False, "user unknown")

    def test_metrics_that_are_left_out(self, zion: Zion) -> None:
        """They are zero; so are model and timestamp, which nobody needs."""
        zion.add_user("ana@corp.test", "ext-7")
        (result,) = data(batch(zion, {"email": "ana@corp.test", "aiRequests": 1}))["results"]
        assert result["aiRequests"]["newValue"] == 1
        assert result["aiInputTokens"]["newValue"] == 0

    def test_each_key_is_booked_once(self, zion: Zion) -> None:
        """Its repetition gets the first answer; another report with it is refused."""
        zion.add_user("ana@corp.test", "ext-7")
        report = increment()
        first = batch(zion, report, idempotency_key="k1")
        assert batch(zion, report, idempotency_key="k1").body == first.body
        refused(batch(zion, increment(aiRequests=2), idempotency_key="k1"), 422)
        data(batch(zion, report, idempotency_key="k2"))
        (limit,) = limits(zion, "ext-7")["limits"]
        assert limit["aiRequests"]["used"] == 2

    def test_how_many_there_may_be(self, zion: Zion) -> None:
        """A thousand; one more and none is booked."""
        zion.add_user("ana@corp.test", "ext-7")
        assert refused(batch(zion, *[increment()] * 1_001), 413) == "PAYLOAD_TOO_LARGE"
        assert data(batch(zion, *[increment()] * 1_000))["results"][-1]["aiRequests"]["newValue"] == 1_000

    @pytest.mark.parametrize("body", [{}, [], {"increments": []}, {"increments": {}}, {"increments": None}, "x"])
    def test_what_is_no_batch(self, zion: Zion, body: object) -> None:
        """400."""
        refused(call(zion, "POST", "/usage/external/batch-increment", body), 400)


class TestIncrements:
    def test_what_it_comes_to(self, zion: Zion) -> None:
        """And whether there is anything left; beyond a limit is booked, too."""
        zion.add_user("ana@corp.test", "ext-7")
        for requests, can_use in ((1, True), (9, False), (1, False)):
            told = data(call(zion, "POST", "/usage/external/increment", increment(aiRequests=requests)))
            assert told["canUse"] is can_use
        assert told["aiRequests"] == {"limit": 10, "used": 11, "remaining": -1}
        assert told["aiInputTokens"] == {"limit": 1_000, "used": 93, "remaining": 907}
        assert told["aiOutputTokens"] == {"limit": None, "used": 21, "remaining": None}

    def test_each_key_is_booked_once(self, zion: Zion) -> None:
        """As with batches."""
        zion.add_user("ana@corp.test", "ext-7")
        report = increment()
        answers = [call(zion, "POST", "/usage/external/increment", report, idempotency_key="k1") for _ in range(2)]
        assert answers[0].body == answers[1].body
        assert data(answers[1])["aiRequests"]["used"] == 1

    @pytest.mark.parametrize(
        "body",
        [
            increment("no@corp.test"),
            {},
            [],
            {"email": 7, "aiRequests": 1},
            increment(aiRequests=-1),
            increment(model=7),
        ],
    )
    def test_what_cannot_be_booked(self, zion: Zion, body: object) -> None:
        """400: a 404 would say that there is no such call."""
        zion.add_user("ana@corp.test", "ext-7")
        refused(call(zion, "POST", "/usage/external/increment", body), 400)


class TestTiers:
    def test_which_models_serve_them(self, zion: Zion) -> None:
        """All three, as they were set up."""
        assert data(call(zion, "GET", "/tiers/config")) == TIERS_CONFIG


LOCKED = [
    ("GET", "/limits/external/ext-7"),
    ("POST", "/usage/external/increment"),
    ("POST", "/usage/external/batch-increment"),
    ("GET", "/tiers/config"),
]


class TestErrors:
    @pytest.mark.parametrize(("method", "path"), LOCKED)
    def test_without_the_key(self, zion: Zion, method: str, path: str) -> None:
        """401; a user's token is none, and neither is the key as one."""
        zion.add_user("ana@corp.test", "ext-7")
        port = int(zion.url.rpartition(":")[2])
        shown = [{}, {"x-api-key": "wrong"}, {"x-api-key": ""}]
        shown += [{"authorization": f"Bearer {token}"} for token in (zion.key, zion.token("ana@corp.test"))]
        for headers in shown:
            sent = {"content-type": "application/json", **headers}
            assert refused(request(port, method, f"/api/v1{path}", b"{}", sent), 401) == "UNAUTHORIZED"

    @pytest.mark.parametrize(("method", "path"), [*LOCKED, ("GET", "/users/me")])
    def test_other_methods(self, zion: Zion, method: str, path: str) -> None:
        """405."""
        for other in {"GET", "POST", "PUT", "DELETE"} - {method}:
            refused(call(zion, other, path), 405)

    @pytest.mark.parametrize("path", ["/", "/users", "/users/you", "/limits/external", "/usage/external/x", "/tiers"])
    def test_other_paths(self, zion: Zion, path: str) -> None:
        """404."""
        assert refused(call(zion, "GET", path), 404) == "NOT_FOUND"

    @pytest.mark.parametrize("path", ["/usage/external/increment", "/usage/external/batch-increment"])
    def test_what_is_no_json(self, zion: Zion, path: str) -> None:
        """400."""
        port = int(zion.url.rpartition(":")[2])
        for raw in (b"", b"{", b"\xff", b"[" * 50_000, b'{"email":NaN}', b"1" * 6_000):
            headers = {"x-api-key": zion.key, "content-type": "application/json"}
            refused(request(port, "POST", f"/api/v1{path}", raw, headers), 400)


class TestAsTheProxyAsks:
    @pytest.fixture
    async def client(self, zion: Zion) -> AsyncIterator[ZionClient]:
        client = ZionClient(zion.url, zion.key)
        yield client
        await client.close()

    async def test_who_is_calling(self, zion: Zion, client: ZionClient) -> None:
        """By the external id, else by ours."""
        zion.add_user("ana@corp.test", "ext-7")
        bo = zion.add_user("bo@corp.test")
        told = await client.identify(zion.token("ana@corp.test"))
        assert (told.id, told.email) == ("ext-7", "ana@corp.test")
        assert (await client.identify(zion.token("bo@corp.test"))).id == bo
        with pytest.raises(InvalidApiKey):
            await client.identify("x.y.z")
        token = zion.token("ana@corp.test")
        zion.forbid("ana@corp.test")
        with pytest.raises(AccessDenied):
            await client.identify(token)

    async def test_what_they_may_spend_and_did(self, zion: Zion, client: ZionClient) -> None:
        """A report, and the limits after it."""
        zion.add_user("ana@corp.test", "ext-7")
        at_ms = round(datetime.now(UTC).timestamp() * 1000)
        items = [
            Item("ext-7", "ana@corp.test", "m", Cost(2, 62, 14), at_ms),
            Item("x", "no@corp.test", "", Cost(1, 0, 0), at_ms),
        ]
        report = plain(await client.report(items, "k1"))
        assert report.outcome is Outcome.TAKEN
        taken, not_taken = report.answers
        assert taken == PlainAnswer(True, used=(2, 62, 14), limits=(10, 1_000, -2))
        assert not_taken == PlainAnswer(False, "user unknown")
        quota = await client.limits("ext-7")
        assert (quota.limit, quota.used) == ((10, 1_000, -1), (2, 62, 14))
        with pytest.raises(AccessDenied):
            await client.limits("ext-8")

    async def test_tiers(self, zion: Zion, client: ZionClient) -> None:
        """One model each."""
        tiers = await client.tiers()
        assert tiers["simple"] == [TierModel("openai", "gpt-4o-mini", 1)]
