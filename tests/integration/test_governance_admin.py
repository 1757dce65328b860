"""The admin API of the built-in governance, on both databases, over a real socket.

Covers `governance/service/admin_api.py`, `governance/service/admin_errors.py`, `governance/service/admin_models.py`,
`governance/service/usage_report.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select

from sentinel.governance.service import admin_api
from sentinel.governance.service.schema import notices
from tests.support.client import Answer, request
from tests.support.governance import ADMIN_KEY, Governance, governance, sqlite_url

DAY_MS = 86_400_000
PATHS = ["/plans", "/plans/team", "/users", "/users/ana@corp.test", "/users/ana@corp.test/keys", "/usage", "/nothing"]


@pytest.fixture
def house(database_url: str) -> Iterator[Governance]:
    with governance(database_url, governance_admin_key=ADMIN_KEY) as running:
        yield running


@pytest.fixture
def peopled(house: Governance) -> Governance:
    """With Ana, who has a plan."""
    add_ana(house)
    return house


def add_ana(house: Governance) -> None:
    """And her plan."""
    assert house.admin("PUT", "/plans/team", {"requests": 10, "models": ["gpt-4o*"]}).status == 201
    assert house.admin("POST", "/users", {"email": "Ana@corp.test", "plan": "team", "team": "search"}).status == 201


def data(answer: Answer, status: int = 200) -> Any:
    """What a success tells."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    assert list(answer.json) == ["success", "data"]
    assert answer.json["success"] is True
    return answer.json["data"]


def error(answer: Answer) -> tuple[int, str, str | None]:
    """The status, code and field of an error."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["success"] is False
    told = answer.json["error"]
    assert told["message"]
    assert {"code", "message"} <= told.keys() <= {"code", "message", "field"}
    return answer.status, told["code"], told.get("field")


def noticed(house: Governance) -> int:
    """How many notices there are for proxies."""
    with house.service.database.reading() as connection:
        return len(connection.execute(select(notices)).all())


class TestPlans:
    def test_a_plan_is_made_and_changed(self, house: Governance) -> None:
        """201, then 200; what is not named stays, and null takes a limit away."""
        made = data(house.admin("PUT", "/plans/team", {"requests": 10, "output_tokens": 7, "models": ["a*"]}), 201)
        assert made == {
            "name": "team",
            "requests": 10,
            "input_tokens": None,
            "output_tokens": 7,
            "period": "monthly",
            "models": ["a*"],
            "users": 0,
        }
        changed = data(house.admin("PUT", "/plans/team", {"requests": None, "period": "daily"}))
        assert changed == {**made, "requests": None, "period": "daily"}
        assert data(house.admin("GET", "/plans/team")) == changed
        assert data(house.admin("GET", "/plans")) == {"plans": [changed]}

    def test_names_with_anything_in_them(self, house: Governance) -> None:
        """Slashes, spaces, other alphabets: as they are percent-encoded."""
        for name in ("a/b", "a b", "50% off", "keys", "Zoë 🙂", "+", ".."):
            target = f"/plans/{quote(name, safe='')}"
            assert data(house.admin("PUT", target, {}), 201)["name"] == name
            assert data(house.admin("DELETE", target))["name"] == name

    def test_a_plan_that_somebody_has_cannot_go(self, peopled: Governance) -> None:
        """409; once nobody has it, it can, once."""
        assert error(peopled.admin("DELETE", "/plans/team")) == (409, "CONFLICT", "plan")
        data(peopled.admin("PUT", "/plans/other", {}), 201)
        data(peopled.admin("PATCH", "/users/ana@corp.test", {"plan": "other"}))
        assert data(peopled.admin("DELETE", "/plans/team"))["users"] == 0
        for method in ("GET", "DELETE"):
            assert error(peopled.admin(method, "/plans/team")) == (404, "NOT_FOUND", "plan")


class TestUsers:
    def test_a_user_is_added_and_changed(self, peopled: Governance) -> None:
        """In any case of letters; what is not named stays."""
        ana = data(peopled.admin("GET", "/users/ANA@corp.test"))
        assert (ana["email"], ana["plan"], ana["team"], ana["disabled"]) == ("Ana@corp.test", "team", "search", False)
        assert datetime.fromisoformat(ana["created_at"]).tzinfo == UTC
        changed = data(peopled.admin("PATCH", "/users/ana@corp.test", {"disabled": True}))
        assert (changed["team"], changed["disabled"]) == ("search", True)
        assert data(peopled.admin("PATCH", "/users/ana@corp.test", {"team": None}))["team"] is None
        assert data(peopled.admin("PATCH", "/users/ana@corp.test", {}))["disabled"] is True

    def test_what_is_there_already(self, peopled: Governance) -> None:
        """409, and the field named."""
        again = {"email": "ana@CORP.test", "plan": "team"}
        assert error(peopled.admin("POST", "/users", again)) == (409, "CONFLICT", "email")
        bo = {"email": "bo@corp.test", "plan": "team", "external_id": "ext-1"}
        data(peopled.admin("POST", "/users", bo), 201)
        assert error(peopled.admin("POST", "/users", {**bo, "email": "c@corp.test"})) == (
            409,
            "CONFLICT",
            "external_id",
        )

    def test_what_is_not_there(self, peopled: Governance) -> None:
        """404, and the field named."""
        assert error(peopled.admin("GET", "/users/bo@corp.test")) == (404, "NOT_FOUND", "email")
        assert error(peopled.admin("PATCH", "/users/bo@corp.test", {})) == (404, "NOT_FOUND", "email")
        unknown = {"email": "bo@corp.test", "plan": "gold"}
        assert error(peopled.admin("POST", "/users", unknown)) == (404, "NOT_FOUND", "plan")
        assert error(peopled.admin("PATCH", "/users/ana@corp.test", {"plan": "gold"})) == (404, "NOT_FOUND", "plan")
        assert error(peopled.admin("GET", "/users?plan=gold")) == (404, "NOT_FOUND", "plan")

    def test_in_pages(self, peopled: Governance) -> None:
        """Everybody once, in order, however large the pages are."""
        data(peopled.admin("PUT", "/plans/other", {}), 201)
        for number in range(6):
            plan = "other" if number % 2 else "team"
            data(peopled.admin("POST", "/users", {"email": f"u{number}@corp.test", "plan": plan}), 201)
        everybody = ["Ana@corp.test", *(f"u{number}@corp.test" for number in range(6))]
        for limit in (1, 3, 7, 1000):
            assert pages(peopled, f"/users?limit={limit}", "users", "email") == everybody
        assert pages(peopled, "/users?plan=other&limit=2", "users", "email") == everybody[2::2]

    def test_what_they_may_spend_and_have_spent(self, peopled: Governance) -> None:
        """Limits, used, remaining, and when it starts anew."""
        item = {"email": "ana@corp.test", "aiRequests": 12, "aiInputTokens": 5, "costMicroUsd": 1_234_567}
        assert peopled.book(item).status == 200
        usage = data(peopled.admin("GET", "/users/ana@corp.test"))["usage"]
        assert usage["requests"] == {"limit": 10, "used": 12, "remaining": -2}
        assert usage["input_tokens"] == {"limit": None, "used": 5, "remaining": None}
        assert usage["cost_micro_usd"] == 1_234_567
        assert usage["period"] == "monthly"
        began, resets = (datetime.fromisoformat(usage[name]) for name in ("period_started_at", "resets_at"))
        assert began <= datetime.fromtimestamp(peopled.now() / 1000, UTC) < resets
        data(peopled.admin("PUT", "/plans/team", {"period": "never"}))
        usage = data(peopled.admin("GET", "/users/ana@corp.test"))["usage"]
        assert (usage["period_started_at"], usage["resets_at"], usage["requests"]["used"]) == (None, None, 12)


class TestKeys:
    def test_a_key_is_shown_once_and_opens(self, peopled: Governance) -> None:
        """Until it is revoked, for good."""
        made = data(peopled.admin("POST", "/users/ana@corp.test/keys", {"name": "laptop"}), 201)
        assert made["expires_at"] is None
        assert peopled.me(made["key"]).status == 200
        (known,) = data(peopled.admin("GET", "/users/ANA@corp.test/keys"))["keys"]
        assert known == {**{name: made[name] for name in made if name != "key"}, "used_at": known["used_at"]}
        assert made["key"].startswith(known["prefix"])
        revoked = data(peopled.admin("DELETE", f"/keys/{made['id']}"))
        assert revoked["revoked_at"] is not None
        assert peopled.me(made["key"]).status == 401
        assert data(peopled.admin("DELETE", f"/keys/{made['id']}")) == revoked

    def test_a_key_that_ends(self, peopled: Governance) -> None:
        """So many seconds from now."""
        made = data(peopled.admin("POST", "/users/ana@corp.test/keys", {"expires_in_seconds": 60}), 201)
        assert datetime.fromisoformat(made["expires_at"]) > datetime.fromisoformat(made["created_at"])
        assert peopled.me(made["key"]).status == 200
        peopled.ahead_ms = 60_000
        assert peopled.me(made["key"]).status == 401

    def test_of_nobody(self, peopled: Governance) -> None:
        """404."""
        assert error(peopled.admin("DELETE", "/keys/key_1")) == (404, "NOT_FOUND", "id")
        for method, body in (("GET", None), ("POST", {})):
            assert error(peopled.admin(method, "/users/bo@corp.test/keys", body)) == (404, "NOT_FOUND", "email")


class TestUsage:
    @pytest.fixture
    def spent(self, peopled: Governance) -> Governance:
        """By Ana, who has a team, and Bo, who has none; on two days; on models told and not."""
        data(peopled.admin("POST", "/users", {"email": "bo@corp.test", "plan": "team"}), 201)
        for email, model in (("ana@corp.test", "m1"), ("ana@corp.test", "m2"), ("bo@corp.test", None)):
            for day in (1, 3):
                item = {"email": email, "aiRequests": 1, "aiInputTokens": 10, "costMicroUsd": 100, "model": model}
                assert peopled.book({**item, "timestamp": f"2026-01-0{day}T12:00:00Z"}).status == 200
        return peopled

    @pytest.mark.parametrize(
        ("by", "requests"),
        [
            ("user", {"Ana@corp.test": 4, "bo@corp.test": 2}),
            ("team", {"": 2, "search": 4}),
            ("model", {"": 2, "m1": 2, "m2": 2}),
            ("day", {"2026-01-01": 3, "2026-01-03": 3}),
        ],
    )
    def test_by_what_is_asked(self, spent: Governance, by: str, requests: dict[str, int]) -> None:
        """All of it, in order, in pages of any size."""
        told = data(spent.admin("GET", f"/usage?by={by}"))
        assert (told["by"], told["next"]) == (by, None)
        assert [line["group"] for line in told["usage"]] == list(requests)
        for line in told["usage"]:
            count = requests[line["group"]]
            amounts = {"requests": count, "input_tokens": 10 * count, "output_tokens": 0, "cost_micro_usd": 100 * count}
            assert line == {"group": line["group"], **amounts}
        assert pages(spent, f"/usage?by={by}&limit=1", "usage", "group") == list(requests)

    def test_of_some_days(self, spent: Governance) -> None:
        """The first and the last are included."""
        for query, count in (
            ("since=2026-01-03", 3),
            ("until=2026-01-02", 3),
            ("since=2026-01-01&until=2026-01-03", 6),
            ("since=2026-01-02&until=2026-01-02", 0),
            ("since=2026-02-02&until=2026-01-02", 0),
        ):
            told = data(spent.admin("GET", f"/usage?{query}"))
            assert sum(line["requests"] for line in told["usage"]) == count


def pages(house: Governance, target: str, what: str, name: str) -> list[str]:
    """The name of each thing on all pages."""
    found, after = [], ""
    while True:
        page = data(house.admin("GET", target + after))
        found += [thing[name] for thing in page[what]]
        if page["next"] is None:
            return found
        after = f"&after={quote(page['next'], safe='')}"


class TestProxiesAreTold:
    def test_whatever_changes_what_a_user_may_do(self, peopled: Governance) -> None:
        """Leaves a notice; what changes nothing leaves none."""
        key = data(peopled.admin("POST", "/users/ana@corp.test/keys", {}), 201)
        before = noticed(peopled)
        for method, target, body, more in (
            ("PUT", "/plans/team", {"requests": 5}, 1),
            ("PATCH", "/users/ana@corp.test", {"disabled": True}, 1),
            ("DELETE", f"/keys/{key['id']}", None, 1),
            ("DELETE", f"/keys/{key['id']}", None, 0),
            ("PATCH", "/users/ana@corp.test", {}, 0),
            ("POST", "/users", {"email": "ana@corp.test", "plan": "team"}, 0),
        ):
            peopled.admin(method, target, body)
            assert noticed(peopled) - before == more, (method, target)
            before = noticed(peopled)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def refusing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governance]:
    """One for all: what is refused changes nothing, as is seen at the end."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = sqlite_url(tmp_path_factory.mktemp("refusing"))
        else:
            url = stack.enter_context(request.getfixturevalue("postgres").database())
        house = stack.enter_context(governance(url, governance_admin_key=ADMIN_KEY))
        add_ana(house)
        there = ("/plans", "/users", "/users/ana@corp.test/keys", "/usage")
        before = [house.admin("GET", target).json for target in there]
        yield house
        assert [house.admin("GET", target).json for target in there] == before


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("method", "target", "body", "field"),
        [
            ("PUT", "/plans/x", {"requests": True}, "requests"),
            ("PUT", "/plans/x", {"requests": 1.0}, "requests"),
            ("PUT", "/plans/x", {"requests": "1"}, "requests"),
            ("PUT", "/plans/x", {"requests": -1}, "requests"),
            ("PUT", "/plans/x", {"requests": 2**53}, "requests"),
            ("PUT", "/plans/x", {"requests": 10**4000}, "requests"),
            ("PUT", "/plans/x", {"period": "yearly"}, "period"),
            ("PUT", "/plans/x", {"period": None}, "period"),
            ("PUT", "/plans/x", {"models": "gpt-4o"}, "models"),
            ("PUT", "/plans/x", {"models": ["a b"]}, "models"),
            ("PUT", "/plans/x", {"models": ["a", 7]}, "models.1"),
            ("PUT", "/plans/x", {"models": ["a"] * 501}, "models"),
            ("PUT", "/plans/x", {"limit": 1}, "limit"),
            ("PUT", "/plans/x", [], None),
            ("PUT", "/plans/x", None, None),
            ("PUT", "/plans/a%2Cb", {}, "name"),
            ("PUT", f"/plans/{'x' * 101}", {}, "name"),
            ("POST", "/users", {"email": "ana@corp.test"}, "plan"),
            ("POST", "/users", {"email": "ana", "plan": "team"}, "email"),
            ("POST", "/users", {"email": "a\x00@corp.test", "plan": "team"}, "email"),
            ("POST", "/users", {"email": "\ud800@corp.test", "plan": "team"}, "email"),
            ("POST", "/users", {"email": f"a@{'ΐ' * 250}", "plan": "team"}, "email"),
            ("POST", "/users", {"email": "bo@corp.test", "plan": "team", "external_id": ""}, "external_id"),
            ("POST", "/users", {"email": "bo@corp.test", "plan": "team", "team": " x"}, "team"),
            ("POST", "/users", {"email": "bo@corp.test", "plan": "team", "disabled": True}, "disabled"),
            ("PATCH", "/users/ana@corp.test", {"plan": None}, "plan"),
            ("PATCH", "/users/ana@corp.test", {"plan": "\x00"}, "plan"),
            ("POST", "/users", {"email": "bo@corp.test", "plan": "\x00"}, "plan"),
            ("PATCH", "/users/ana@corp.test", {"disabled": 1}, "disabled"),
            ("PATCH", "/users/ana@corp.test", {"team": "a,b"}, "team"),
            ("POST", "/users/ana@corp.test/keys", {"expires_in_seconds": 0}, "expires_in_seconds"),
            ("POST", "/users/ana@corp.test/keys", {"name": ""}, "name"),
            ("GET", "/users?limit=0", None, "limit"),
            ("GET", "/users?limit=1001", None, "limit"),
            ("GET", "/users?after=%00", None, "after"),
            ("GET", "/usage?by=week", None, "by"),
            ("GET", "/usage?since=yesterday", None, "since"),
            ("GET", "/usage?until=20260203", None, "until"),
            ("GET", "/usage?until=2026-02-31", None, "until"),
            ("GET", "/usage?by=day&after=x", None, "after"),
        ],
    )
    def test_and_the_field_named(
        self, refusing: Governance, method: str, target: str, body: object, field: str | None
    ) -> None:
        """400, one shape for whatever cannot be."""
        assert error(refusing.admin(method, target, body)) == (400, "VALIDATION_ERROR", field)

    @pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 50_000, b"1" * 6_000, b'{"requests":NaN}', b"nul"])
    def test_what_is_no_json(self, refusing: Governance, raw: bytes) -> None:
        """400."""
        assert error(refusing.admin("PUT", "/plans/x", raw=raw))[:2] == (400, "VALIDATION_ERROR")

    def test_what_is_not_sent_as_json(self, refusing: Governance) -> None:
        """As a browser's form could be, from any page."""
        answer = refusing.admin("PUT", "/plans/x", raw=b"{}", content_type="text/plain")
        assert error(answer) == (400, "VALIDATION_ERROR", None)

    def test_what_is_too_large(self, refusing: Governance) -> None:
        """413."""
        assert error(refusing.admin("PUT", "/plans/x", raw=b" " * 1_100_000)) == (413, "PAYLOAD_TOO_LARGE", None)

    @pytest.mark.parametrize(
        "target", ["/plans/%00", "/plans/%ff", "/users/%00", "/keys", "/users/", "/docs", "/redoc"]
    )
    def test_paths_of_nothing(self, refusing: Governance, target: str) -> None:
        """404."""
        assert error(refusing.admin("GET", target)) == (404, "NOT_FOUND", None)

    def test_other_methods(self, refusing: Governance) -> None:
        """405, with all that there are."""
        for target, allowed in (("/plans/x", "DELETE, GET, PUT"), ("/users/x", "GET, PATCH"), ("/keys/x", "DELETE")):
            answer = refusing.admin("POST", target, {})
            assert error(answer) == (405, "METHOD_NOT_ALLOWED", None)
            assert answer.headers["allow"] == allowed


def test_a_database_that_is_away(house: Governance) -> None:
    """503, and when to come again; not a word about it."""
    with house.service.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE reports")
        connection.exec_driver_sql("DROP TABLE keys")
    answer = house.admin("DELETE", "/keys/x")
    assert error(answer) == (503, "SERVICE_UNAVAILABLE", None)
    assert answer.headers["retry-after"] == "1"
    assert b"keys" not in answer.body


class TestTheKey:
    @pytest.mark.parametrize("target", PATHS)
    def test_a_wrong_one(self, house: Governance, target: str) -> None:
        """401 whatever is asked for, before anything of it is read; after some of them 429; the right one is served."""
        answers = [house.admin("GET", target, raw=b"{", key="wrong") for _ in range(12)]
        assert [error(answer)[:2] for answer in answers] == [(401, "UNAUTHORIZED")] * 10 + [
            (429, "TOO_MANY_FAILURES")
        ] * 2
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert int(answers[-1].headers["retry-after"]) > 0
        assert house.admin("GET", "/plans").status == 200

    def test_other_keys(self, peopled: Governance) -> None:
        """Neither that of proxies nor a user's, nor another scheme."""
        port = int(peopled.url.rpartition(":")[2])
        user = peopled.add_key("ana@corp.test").key
        for shown in (
            f"Basic {ADMIN_KEY}",
            ADMIN_KEY,
            f"Bearer {user}",
            f"Bearer x{ADMIN_KEY}",
            "Bearer",
            "Bearer \xe9",
        ):
            assert request(port, "GET", "/admin/plans", headers={"authorization": shown}).status == 401
        assert request(port, "GET", "/admin/plans", headers={"x-api-key": ADMIN_KEY}).status == 401

    def test_without_one_there_is_no_such_api(self, tmp_path: Path) -> None:
        """404 for all of it."""
        with governance(sqlite_url(tmp_path)) as running:
            for target in (*PATHS, "/openapi.json"):
                assert error(running.admin("GET", target)) == (404, "NOT_FOUND", None)


def test_the_page_has_every_operation() -> None:
    """docs/governance.md names those that the OpenAPI document has, and no others."""
    page = (Path(__file__).parents[2] / "docs/governance.md").read_text()
    told = re.findall(r"^\| `([A-Z]+) (/admin/[^`?]+)", page, re.MULTILINE)
    paths = admin_api.document()["paths"]
    there = [(method.upper(), f"/admin{path}") for path, item in paths.items() for method in item]
    assert sorted(told) == sorted([*there, ("GET", "/admin/openapi.json")])
