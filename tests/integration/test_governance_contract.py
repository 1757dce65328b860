"""The built-in governance speaks Zion's contract (docs/zion.md), on a real database, over a real socket.

Covers `governance/service/contract_api.py`, `governance/service/ledger.py`, `governance/service/directory.py`,
`governance/service/identity.py`, `governance/service/database.py`, `governance/service/schema.py`,
`governance/service/service.py`, `governance/service/app.py`, `governance/service/api_keys.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from sentinel.governance.service import api_keys, directory
from sentinel.governance.service.increments import MOST_AMOUNT
from sentinel.governance.service.ledger import MOST_BOOKED
from sentinel.governance.service.schema import metadata
from tests.support.client import Answer, ask, request
from tests.support.governance import API_KEY, DAY_MS, Governance, governance


@pytest.fixture
def house(database_url: str) -> Iterator[Governance]:
    with governance(database_url) as running:
        running.turn_to_noon()
        running.set_plan("team", requests=10, input_tokens=1_000, period="monthly", models=["gpt-4o*"])
        running.add_user("Ana@corp.test", "team", external_id="ext-ana", name="Ana")
        yield running


def increment(email: str = "ana@corp.test", **more: Any) -> dict[str, Any]:
    return {"email": email, "aiRequests": 1, "aiInputTokens": 31, "aiOutputTokens": 7, "model": "gpt-4o", **more}


def request_three(house: Governance) -> Answer:
    port = int(house.url.rpartition(":")[2])
    return request(port, "GET", "/api/v1/limits/external/ext-ana?shape=three", headers={"x-api-key": API_KEY})


class TestUsersMe:
    def test_whose_a_key_is(self, house: Governance) -> None:
        """With the models of the plan, and the moment when the key ends."""
        key = house.add_key("ana@corp.test", expires_ms=house.now() + DAY_MS)
        data = house.me(key.key).json["data"]
        assert (data["email"], data["externalId"], data["name"]) == ("Ana@corp.test", "ext-ana", "Ana")
        assert data["allowedModels"] == ["gpt-4o*"]
        assert datetime.fromisoformat(data["expiresAt"]) > datetime.now(UTC)

    def test_keys_that_open_nothing(self, house: Governance) -> None:
        """Unknown, revoked, expired; and a user who is disabled."""
        revoked, ended, good = (house.add_key("ana@corp.test") for _ in range(3))
        ending = house.add_key("ana@corp.test", expires_ms=house.now() + DAY_MS)
        with house.service.database.writing() as connection:
            directory.revoke_key(connection, revoked.id, house.now())
        house.ahead_ms += DAY_MS
        for token in (revoked.key, ending.key, "sk-sentinel-x", "no.jwt.here"):
            answer = house.me(token)
            assert (answer.status, answer.json["error"]["code"]) == (401, "UNAUTHORIZED")
        assert house.me(good.key).status == 200
        house.change_user("ana@corp.test", disabled=True)
        assert house.me(good.key).status == 403
        assert ended.key not in house.me(ended.key).body.decode()

    def test_a_key_is_stored_nowhere(self, house: Governance) -> None:
        """Only its hash is, and its beginning."""
        key = house.add_key("ana@corp.test").key
        assert house.me(key).status == 200
        with house.service.database.reading() as connection:
            stored = repr([connection.execute(select(table)).all() for table in metadata.tables.values()])
        assert key not in stored
        assert key[: len(api_keys.BEGINNING) + 6] in stored

    def test_many_wrong_tokens_are_told_to_wait_and_a_right_one_is_served(self, house: Governance) -> None:
        """Whatever else comes from its address."""
        key = house.add_key("ana@corp.test")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: house.me(f"sk-sentinel-{number}"), range(400)))
        assert {answer.status for answer in answers} == {401, 429}
        assert all("retry-after" in answer.headers for answer in answers if answer.status == 429)
        assert house.me(key.key).status == 200


class TestLimits:
    def test_in_one_element(self, house: Governance) -> None:
        """What is not limited has no limit, and nothing that remains."""
        house.book(increment())
        data = house.call("GET", "/limits/external/ext-ana").json["data"]
        assert data["externalId"] == "ext-ana"
        (limit,) = data["limits"]
        assert limit["aiRequests"] == {"limit": 10, "used": 1, "remaining": 9}
        assert limit["aiInputTokens"] == {"limit": 1_000, "used": 31, "remaining": 969}
        assert limit["aiOutputTokens"] == {"limit": None, "used": 7, "remaining": None}
        assert limit["resetPeriod"] == "MONTHLY"
        assert limit["periodEnd"].endswith("T23:59:59Z")

    def test_in_three_elements(self, house: Governance) -> None:
        """As an older Zion tells them."""
        limits = request_three(house).json["data"]["limits"]
        assert [limit["name"] for limit in limits] == ["ai_requests", "ai_input_tokens", "ai_output_tokens"]
        assert (limits[1]["limit"], limits[1]["remaining"]) == (1_000, 1_000)

    def test_of_nobody(self, house: Governance) -> None:
        """404 in an envelope."""
        answer = house.call("GET", "/limits/external/ext-bo")
        assert (answer.status, answer.json["error"]["code"]) == (404, "NOT_FOUND")


class TestUsage:
    def test_a_report_is_booked_once_for_each_key(self, house: Governance) -> None:
        """The same report gets its first answer; another one with its key is refused."""
        first = house.book(increment(), increment("bo@corp.test"), key="k1")
        assert [result["success"] for result in first.json["data"]["results"]] == [True, False]
        assert house.book(increment(), increment("bo@corp.test"), key="k1").body == first.body
        assert house.book(increment(), key="k1").status == 422
        assert house.used("ana@corp.test") == (1, 31, 7)
        house.book(increment(), key="k2")
        assert house.used("ana@corp.test") == (2, 62, 14)

    def test_at_the_same_time(self, house: Governance) -> None:
        """Whoever comes with the same key waits for the first, and others lose nothing."""
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: house.book(increment(), key=f"k{number // 4}"), range(64)))
        assert {answer.status for answer in answers} == {200}
        assert house.used("ana@corp.test") == (16, 16 * 31, 16 * 7)

    def test_an_item_that_is_wrong_keeps_no_other_from_being_booked(self, house: Governance) -> None:
        """Its result says what is wrong with it."""
        answer = house.book(increment(aiRequests=-1), increment(), increment(timestamp="yesterday"))
        results = answer.json["data"]["results"]
        assert [result["success"] for result in results] == [False, True, False]
        assert "aiRequests" in results[0]["error"]
        assert "timestamp" in results[2]["error"]
        assert house.used("ana@corp.test") == (1, 31, 7)

    def test_each_result_tells_what_is_used_so_far(self, house: Governance) -> None:
        """Items of one user add up in their order."""
        results = house.book(increment(), increment(model="gpt-4o-mini")).json["data"]["results"]
        assert [result["aiRequests"] for result in results] == [{"newValue": n, "limit": 10} for n in (1, 2)]

    def test_one_item_alone(self, house: Governance) -> None:
        """Being over a limit is no error."""
        answer = house.call("POST", "/usage/external/increment", increment(aiRequests=11))
        assert answer.json["data"]["canUse"] is False
        assert answer.json["data"]["aiRequests"] == {"limit": 10, "used": 11, "remaining": -1}
        assert house.call("POST", "/usage/external/increment", increment("bo@corp.test")).status == 400
        assert house.call("POST", "/usage/external/increment", increment(model=7)).status == 400

    def test_a_timestamp_decides_the_period(self, house: Governance) -> None:
        """What belongs to the last one is booked, and does not count in this one."""
        old = datetime.fromtimestamp(house.now() / 1000 - 40 * 86_400, UTC).isoformat()
        house.book(increment(timestamp=old), increment())
        assert house.used("ana@corp.test") == (1, 31, 7)

    def test_a_new_period_begins_at_nothing(self, house: Governance) -> None:
        """By the calendar, and what was spent ahead of it counts."""
        house.set_plan("daily", period="daily")
        house.add_user("bo@corp.test", "daily")
        soon = datetime.fromtimestamp((house.now() + DAY_MS) / 1000, UTC).isoformat()
        house.book(increment("bo@corp.test"), increment("bo@corp.test", timestamp=soon))
        assert house.used("bo@corp.test") == (1, 31, 7)
        house.ahead_ms += DAY_MS
        assert house.used("bo@corp.test") == (1, 31, 7)
        house.book(increment("bo@corp.test"))
        assert house.used("bo@corp.test") == (2, 62, 14)
        house.ahead_ms += DAY_MS
        assert house.used("bo@corp.test") == (0, 0, 0)

    def test_another_period_counts_what_was_spent_in_it(self, house: Governance) -> None:
        """Also when the first one comes back."""
        yesterday = datetime.fromtimestamp(house.now() / 1000 - 86_400, UTC).isoformat()
        house.set_plan("team", period="never")
        house.book(increment(timestamp=yesterday), increment())
        assert house.used("ana@corp.test") == (2, 62, 14)
        house.set_plan("team", period="daily")
        house.book(increment())
        assert house.used("ana@corp.test") == (2, 62, 14)
        house.set_plan("team", period="never")
        assert house.used("ana@corp.test") == (3, 93, 21)

    def test_sums_end_where_numbers_in_json_do(self, house: Governance) -> None:
        """An item beyond that is refused, in this period and in another one; no sum is wrong, or a float."""
        house.set_plan("team", period="daily")
        for day in (None, datetime.fromtimestamp(house.now() / 1000 - 86_400, UTC).isoformat()):
            most: dict[str, Any] = {"aiInputTokens": MOST_AMOUNT, "timestamp": day}
            for _ in range(MOST_BOOKED // MOST_AMOUNT // 1_000):
                assert house.book(*[increment(**most)] * 1_000).json["data"]["failed"] == 0
            rest = MOST_BOOKED % (1_000 * MOST_AMOUNT)
            items = [increment(**most)] * (rest // MOST_AMOUNT)
            items += [increment(aiInputTokens=tokens, timestamp=day) for tokens in (rest % MOST_AMOUNT, 1, 0)]
            told = house.book(*items).json["data"]["results"]
            assert [each["success"] for each in told] == [True] * (len(items) - 2) + [False, True]
            assert str(MOST_BOOKED) in told[-2]["error"]
            assert house.used("ana@corp.test")[1] == MOST_BOOKED
        assert house.call("POST", "/usage/external/increment", increment()).status == 400
        # Together they are more; that is told, too, and exact.
        house.set_plan("team", period="never")
        assert house.used("ana@corp.test")[1] == 2 * MOST_BOOKED
        assert house.book(increment()).json["data"]["failed"] == 1
        assert house.used("ana@corp.test")[1] == 2 * MOST_BOOKED

    @pytest.mark.parametrize("body", [{}, {"increments": []}, {"increments": {}}, [], "x", None])
    def test_bodies_that_are_no_report(self, house: Governance, body: object) -> None:
        """400 in an envelope."""
        answer = house.call("POST", "/usage/external/batch-increment", body)
        assert (answer.status, answer.json["error"]["code"]) == (400, "VALIDATION_ERROR")

    def test_too_many_items(self, house: Governance) -> None:
        """413, and nothing is booked."""
        assert house.book(*[increment()] * 1_001).status == 413
        assert house.used("ana@corp.test") == (0, 0, 0)


class TestKeysOfProxies:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/limits/external/ext-ana"),
            ("POST", "/usage/external/increment"),
            ("POST", "/usage/external/batch-increment"),
            ("GET", "/tiers/config"),
        ],
    )
    def test_a_wrong_one(self, house: Governance, method: str, path: str) -> None:
        """401, and after some of them 429; the right one is served all the same."""
        answers = [ask(method, f"{house.url}/api/v1{path}", headers={"x-api-key": "wrong"}) for _ in range(12)]
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
        assert house.call("GET", "/limits/external/ext-ana").status == 200

    def test_methods_and_paths_that_are_none(self, house: Governance) -> None:
        """405 and 404, in envelopes."""
        assert house.call("DELETE", "/usage/external/increment").status == 405
        assert house.call("GET", "/users/you").json["error"]["code"] == "NOT_FOUND"

    def test_tiers(self, house: Governance) -> None:
        """All three, empty without a file of them."""
        tiers = house.call("GET", "/tiers/config").json["data"]["tiers"]
        assert tiers == {"simple": [], "moderate": [], "complex": []}
