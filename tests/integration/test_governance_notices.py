"""Proxies are told of changes within a second (`governance/service/notices.py`), once each is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sentinel.governance.service.notices import Teller
from tests.support.governance import Governance, governance
from tests.support.told_proxy import ADMIN_KEY, Proxy, told_proxy
from tests.support.waiting import wait_until


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with told_proxy() as proxy:
        yield proxy


@pytest.fixture
def house(database_url: str, proxy: Proxy) -> Iterator[Governance]:
    with governance(database_url, governance_proxies=proxy.url, admin_key=ADMIN_KEY) as running:
        running.set_plan("team", requests=10)
        running.add_user("ana@corp.test", "team", external_id="ext-ana")
        running.add_user("bo@corp.test", "team", external_id="ext-bo")
        yield running


def test_whatever_changes_what_a_user_may_do_is_told(house: Governance, proxy: Proxy) -> None:
    """Within a second; of a plan all its users are."""
    began = time.monotonic()
    house.change_user("ana@corp.test", disabled=True)
    wait_until(lambda: proxy.heard == ["ext-ana"], "the proxy is told of a user")
    assert time.monotonic() - began < 1
    house.set_plan("team", requests=20)
    wait_until(lambda: proxy.heard == ["ext-ana", "ext-ana", "ext-bo"], "the proxy is told of a plan")


def test_a_proxy_that_is_away_is_told_later(house: Governance, proxy: Proxy) -> None:
    """By whoever looks next, and only of what it has not heard."""
    proxy.status = 503
    house.change_user("ana@corp.test", disabled=True)
    house.change_user("ana@corp.test", disabled=False)
    house.change_user("bo@corp.test", team="red")
    proxy.status = 200
    wait_until(lambda: sorted(set(proxy.heard)) == ["ext-ana", "ext-bo"], "the proxy is told")


def test_a_new_proxy_hears_nothing_old(house: Governance, proxy: Proxy) -> None:
    """It has no caches of it. A command tells by itself, once."""
    house.change_user("ana@corp.test", disabled=True)
    wait_until(lambda: proxy.heard, "the proxy is told")
    key = house.service.settings.admin_key
    assert key is not None
    with Proxy() as another:
        threading.Thread(target=another.serve_forever, kwargs={"poll_interval": 0.02}).start()
        teller = Teller(house.service.database, [another.url], key, house.now)
        teller.register()
        assert teller.tell_all() == []
        house.change_user("bo@corp.test", disabled=True)
        assert teller.tell_all() == []
        assert another.heard == ["ext-bo"]
        another.status = 403
        house.change_user("bo@corp.test", disabled=False)
        assert teller.tell_all() == [another.url]
        teller.close()
        another.shutdown()


def test_no_notice_is_overtaken(house: Governance, proxy: Proxy) -> None:
    """Many change users at the same time, and whoever is committed later is not left behind."""
    many = [f"user{number}@corp.test" for number in range(200)]
    for email in many:
        house.add_user(email, "team", external_id=email.partition("@")[0])
    proxy.heard.clear()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda email: house.change_user(email, disabled=True), many))
    wait_until(lambda: {email.partition("@")[0] for email in many} <= set(proxy.heard), "the proxy is told of all")
