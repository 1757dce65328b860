"""Whatever is sent to the admin API (`governance/service/admin_api.py`): its document holds, and nothing is a 5xx.

Schemathesis sends what the document allows and what it forbids, with all of its checks, against a real database.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from sentinel.governance.service import admin_api
from sentinel.governance.service.failures import Failures
from tests.support.client import Answer
from tests.support.governance import ADMIN_KEY, Governance, governance, sqlite_url

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

STRICTER = ["Input should be a valid integer", "after must be a day"]
"""What no schema says: 1.0 is no integer here, and where lines are days, a page begins behind a day."""

schema = schemathesis.openapi.from_dict(
    admin_api.document(),
    # The same cases in every run. The key is ours to send.
    config=SchemathesisConfig.from_dict(
        {"seed": 1, "generation": {"deterministic": True, "database": "none", "with-security-parameters": False}}
    ),
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governance]:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path_factory.mktemp("governance"))
        with governance(url, governance_admin_key=ADMIN_KEY) as running:
            yield peopled(running)
        return
    with (
        request.getfixturevalue("postgres").database() as url,
        governance(url, governance_admin_key=ADMIN_KEY) as running,
    ):
        yield peopled(running)


def peopled(house: Governance) -> Governance:
    """With what the examples of the document name."""
    # Schemathesis shows wrong keys as well.
    house.service.wrong_keys = Failures(10**9, 60.0)
    house.set_plan("team")
    house.add_user("ana@corp.test", "team")
    return house


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def whatever_is_sent(case: schemathesis.Case[Any], house: Governance) -> None:
    """No 5xx; the answer is as documented; what the document allows is taken, what it forbids is refused."""
    house.set_plan("team")
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    response = case.call(base_url=f"{house.url}/admin", headers=key)
    if response.status_code == 400 and any(said in response.text for said in STRICTER):
        case.validate_response(response, headers=key, excluded_checks=[positive_data_acceptance])
    else:
        case.validate_response(response, headers=key)


# A test for each operation: pytest-xdist would run one of those that share a node id.
for _item in admin_api.document()["paths"].values():
    for _operation in _item.values():
        _schema = schema.include(operation_id=_operation["operationId"])
        globals()[f"test_{_operation['operationId']}"] = _schema.parametrize()(whatever_is_sent)


def fine(answer: Answer) -> Any:
    """An answer in its envelope, and no 5xx; the data of a success, None of an error."""
    assert answer.status < 500, answer.body
    assert answer.json["success"] is (answer.status < 300)
    assert ("data" in answer.json) is not ("error" in answer.json)
    return answer.json.get("data")


numbers = st.integers() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False)
letters = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["\x00", "\ud800", "ΐ" * 300, "x" * 300, "a\n", "İ", "%2F"]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | letters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3),
    max_leaves=8,
)
emails = st.builds("{}@{}".format, letters, letters) | letters


@FUZZ
@given(email=emails, name=st.none() | letters, external_id=st.none() | letters)
@example(email="ß@corp.test", name=None, external_id=None)
@example(email="a@b/keys", name=None, external_id="usr_1")
def test_whoever_is_added_is_found(house: Governance, email: str, name: str | None, external_id: str | None) -> None:
    """By their address, in pages, and their key is theirs; whoever is not has left nothing."""
    body = {"email": email, "plan": "team", "name": name, "external_id": external_id}
    added = fine(house.admin("POST", "/users", body))
    target = f"/users/{quote(email, safe='', errors='surrogatepass')}"
    found = fine(house.admin("GET", target))
    if added is None:
        return
    assert (added["email"], added["name"], added["external_id"]) == (email, name, external_id)
    assert found is not None
    assert found["id"] == added["id"]
    key = fine(house.admin("POST", f"{target}/keys", {}))
    assert house.me(key["key"]).json["data"]["id"] == added["id"]
    assert fine(house.admin("GET", f"{target}/keys"))["keys"][0]["id"] == key["id"]


@FUZZ
@given(
    name=letters,
    body=st.dictionaries(st.sampled_from(["requests", "period", "models", "output_tokens"]) | letters, values),
)
def test_any_plan(house: Governance, name: str, body: dict[str, Any]) -> None:
    """It is as it was said to be, or it is not there."""
    target = f"/plans/{quote(name, safe='', errors='surrogatepass')}"
    made = fine(house.admin("PUT", target, raw=json.dumps(body).encode()))
    if made is not None:
        assert {field: made[field] for field in body} == body
        assert fine(house.admin("GET", target)) == made


@FUZZ
@given(
    target=st.sampled_from(["/plans/team", "/users", "/users/ana@corp.test", "/keys/x"]),
    raw=st.binary(max_size=40),
    value=values,
)
def test_any_body(house: Governance, target: str, raw: bytes, value: Any) -> None:
    """JSON of any shape, and what is none."""
    for body in (raw, json.dumps(value).encode()):
        for method in ("PUT", "POST", "PATCH", "DELETE"):
            if (method, target) != ("DELETE", "/plans/team"):
                fine(house.admin(method, target, raw=body))


@FUZZ
@given(path=st.binary(max_size=20), query=st.binary(max_size=20))
def test_any_path(house: Governance, path: bytes, query: bytes) -> None:
    """Bytes of any kind, percent-encoded."""
    for target in (f"/users/{quote(path, safe='')}", f"/{quote(path)}"):
        answer = house.admin("GET", f"{target}?after={quote(query)}&by={quote(query)}")
        assert answer.status < 500, answer.body
