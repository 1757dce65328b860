"""Two installations on one Redis are refused, or told apart by REDIS_PREFIX."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sentinel.cache import keys
from sentinel.cache.installation import Installation, digest
from tests.support.cluster import EmbeddedCluster
from tests.support.metering import other_zion
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

BODY = chat("[[tokens=3]]")
WRONG_START = 2


@pytest.fixture
def theirs() -> Iterator[Stack]:
    """An installation whose Sentinel has served a user."""
    with Stack(SPOOL_DIR="spool") as stack:
        serve(stack)
        yield stack


@pytest.fixture
def ours() -> Iterator[Stack]:
    """Another one, with a Zion of its own."""
    with Stack() as stack:
        yield stack


@functools.cache
def token_of(stack: Stack) -> str:
    """The token of its one user, whose id is the same in each installation."""
    return stack.user()[1]


def serve(stack: Stack, **settings: str) -> SentinelProcess:
    """A Sentinel of it that has served its user, and told Zion."""
    sentinel, token = stack.sentinel(settings), token_of(stack)
    before = stack.used()["ai_requests"]
    assert post(sentinel, token, BODY).status == 200
    stack.booked(before + 1)
    url = settings.get("REDIS_URL") or stack.store.url
    wait_until(lambda: ask(url, "GET", marked(settings)), "the mark")
    return sentinel


def marked(settings: dict[str, str]) -> str:
    prefix = settings.get("REDIS_PREFIX")
    return f"{prefix}:sentinel:installation" if prefix else "sentinel:installation"


def ask(url: str, *command: str) -> Any:
    """One command to the Redis at this URL."""
    with contextlib.closing(Redis.from_url(url, decode_responses=True)) as client:
        return client.execute_command(*command)


def refusal(stack: Stack, **settings: str) -> str:
    """What a `sentinel serve` says that must not start."""
    sentinel = stack.sentinel(settings, start=False)
    done = subprocess.run(
        sentinel.command,
        env={"PATH": os.environ["PATH"], **sentinel.environment},
        cwd=sentinel.folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (WRONG_START, "")
    return done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_another_installation_does_not_start(theirs: Stack, ours: Stack, workers: str) -> None:
    """With another Zion on the same Redis: status 2, and what to do."""
    said = refusal(ours, REDIS_URL=theirs.store.url, SENTINEL_WORKERS=workers)
    for word in ("REDIS_URL", "another ZION_API_URL", "REDIS_PREFIX", "redis-cli SET sentinel:installation"):
        assert word in said


def test_an_idle_one_is_there_first_as_well(ours: Stack) -> None:
    """It has served nobody yet; that its Zion answers is enough."""
    with Stack() as theirs:
        theirs.sentinel()
        wait_until(lambda: ask(theirs.store.url, "GET", "sentinel:installation"), "the mark")
        assert "another ZION_API_URL" in refusal(ours, REDIS_URL=theirs.store.url)


def test_more_of_the_same_start(theirs: Stack) -> None:
    """Replicas, restarts, and whoever writes https or capitals for the same Zion."""
    url = theirs.simulators.zion_url
    serve(theirs, ZION_API_URL=url.replace("127.0.0.1", "LOCALHOST"), REDIS_PREFIX="x")
    serve(theirs, ZION_API_URL=url + "/")
    assert digest("https://Zion.Corp.test:8443/a") == digest("http://zion.corp.test:8443/a/")
    assert digest("https://zion.corp.test/a") != digest("https://zion.corp.test/b")


def test_a_prefix_tells_them_apart(theirs: Stack, ours: Stack) -> None:
    """One Redis, equal ids of users: tokens, limits and usage of each stay its own, and so do all keys."""
    url = theirs.store.url
    before = set(ask(url, "KEYS", "*"))
    sentinel = serve(ours, REDIS_URL=url, REDIS_PREFIX="eu", ADMIN_KEY="admin-key", RATE_LIMITS="ai_requests=2/1h")
    [other] = theirs.sentinels
    token_of_theirs, token_of_ours = token_of(theirs), token_of(ours)
    assert post(sentinel, token_of_theirs, BODY).status == 401
    assert post(other, token_of_ours, BODY).status == 401
    assert [post(sentinel, token_of_ours, BODY).status for _ in range(2)] == [200, 429]
    for _ in range(5):
        assert post(other, token_of_theirs, BODY).status == 200
    assert (ours.booked(2)["ai_requests"], theirs.booked(6)["ai_requests"]) == (2, 6)
    assert {key.partition(":")[0] for key in set(ask(url, "KEYS", "*")) - before} <= {"eu", "sentinel", "jwt", "limits"}
    of_ours = ask(url, "KEYS", "eu:*")
    kinds = {key.split(":")[1] for key in of_ours}
    assert kinds == {"sentinel", "jwt", "limits"}
    assert ask(url, "PUBSUB", "NUMSUB", "eu:sentinel:forget", "sentinel:forget") == [
        *("eu:sentinel:forget", 1),
        *("sentinel:forget", 1),
    ]
    assert send(sentinel, "POST", "/admin/users/ana/refresh", Authorization="Bearer admin-key").status == 200


def test_with_a_prefix_no_key_is_without_it(ours: Stack) -> None:
    """On a Redis of its own, after all that makes keys: requests, streams, letters, admin, a lease."""
    sentinel = serve(ours, REDIS_PREFIX="eu", ADMIN_KEY="admin-key", RATE_LIMITS="ai_requests=100/1h")
    _, token = ours.user("refused@corp.test")
    ours.simulators.zion.refused_emails.add("refused@corp.test")
    assert post(sentinel, token, {**BODY, "stream": True}).status == 200
    wait_until(lambda: ask(ours.store.url, "KEYS", "*dead-letters"), "a dead letter")
    assert send(sentinel, "POST", "/admin/users/ana/refresh", Authorization="Bearer admin-key").status == 200
    assert [key for key in ask(ours.store.url, "KEYS", "*") if not key.startswith("eu:")] == []
    doctor = subprocess.run(
        [*sentinel.command[:-1], "doctor", "--dead-letters"],
        env={"PATH": os.environ["PATH"], **sentinel.environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert "1 dead letters" in doctor.stdout


def test_a_slip_in_the_address_of_zion_claims_nothing(ours: Stack) -> None:
    """Where no Zion answers nothing is written, so the corrected address starts."""
    wrong = ours.sentinel(ZION_API_URL=ours.simulators.openai_url)
    wait_until(lambda: [call for call in ours.simulators.openai.calls if "limits" in call.path], "a look at Zion")
    wrong.stop()
    assert ask(ours.store.url, "GET", "sentinel:installation") is None
    serve(ours)


def test_a_zion_that_has_moved(theirs: Stack) -> None:
    """The command in the message is all there is to do; what runs goes on until its next connection."""
    with other_zion(theirs.simulators.zion.app) as moved:
        command = refusal(theirs, ZION_API_URL=moved).partition("redis-cli ")[2]
        assert ask(theirs.store.url, *shlex.split(command))
        serve(theirs, ZION_API_URL=moved)
        assert post(theirs.sentinels[0], token_of(theirs), BODY).status == 200
        theirs.booked(3)


def test_another_layout_does_not_start(theirs: Stack) -> None:
    """A version that keeps other things in these keys would neither see nor keep what this one has there."""
    mark = Installation(theirs.simulators.zion_url).mark
    assert ask(theirs.store.url, "GET", "sentinel:installation") == mark == f"{mark.split()[0]} schema {keys.SCHEMA}"
    ask(theirs.store.url, "SET", "sentinel:installation", f"{mark.split()[0]} schema {keys.SCHEMA + 1}")
    said = refusal(theirs)
    assert f"schema {keys.SCHEMA + 1}, ours is {keys.SCHEMA}" in said
    assert f"redis-cli SET sentinel:installation '{mark}'" in said


def test_a_redis_that_becomes_anothers_is_as_good_as_away(theirs: Stack) -> None:
    """After a restore or a failover to the wrong one: 503 at the next connection, and the reason is told; then back."""
    [sentinel] = theirs.sentinels
    token, mark = token_of(theirs), ask(theirs.store.url, "GET", "sentinel:installation")
    ask(theirs.store.url, "SET", "sentinel:installation", "another schema 4")
    ask(theirs.store.url, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def redis_check() -> dict[str, Any]:
        return dict(send(sentinel, "GET", "/health").json["checks"]["redis"])

    # At first it is away, as after any lost connection.
    wait_until(lambda: redis_check().get("reason") == "belongs to another installation", "the reason")
    assert send(sentinel, "GET", "/health/ready").status == 503
    assert post(sentinel, token, BODY).status == 503
    assert any("REDIS_PREFIX" in str(line.get("reason")) for line in sentinel.log())
    ask(theirs.store.url, "SET", "sentinel:installation", mark)
    wait_until(lambda: post(sentinel, token, BODY).status == 200, "its return")


def test_on_a_cluster(ours: Stack, tmp_path: Path) -> None:
    """The same there, where the mark is on one of the nodes."""
    with EmbeddedCluster(tmp_path / "cluster") as cluster, Stack() as theirs:
        theirs.sentinel(REDIS_URL=cluster.url)
        client = Redis(port=cluster.nodes[0].port)
        found = wait_until(
            lambda: any(cluster.client(node).keys("sentinel:installation") for node in cluster.nodes), "the mark"
        )
        client.close()
        assert found
        assert "another ZION_API_URL" in refusal(ours, REDIS_URL=cluster.url)
        sentinel = ours.sentinel(REDIS_URL=cluster.url, REDIS_PREFIX="eu")
        assert post(sentinel, token_of(ours), BODY).status == 200


def test_a_folder_of_spooled_usage_is_one_installations(theirs: Stack, ours: Stack) -> None:
    """The default SPOOL_DIR in one working directory: what the one could not settle the other must not bill."""
    spool = str(theirs.sentinels[0].folder / "spool")
    for settings in ({}, {"REDIS_PREFIX": "eu"}):
        said = refusal(ours, SPOOL_DIR=spool, **settings)
        assert "SPOOL_DIR: it belongs to an installation with another ZION_API_URL or REDIS_PREFIX" in said
    assert "SPOOL_DIR" in refusal(theirs, SPOOL_DIR=spool, REDIS_PREFIX="eu")
    serve(theirs, SPOOL_DIR=spool)
    Path(said.rpartition("delete ")[2].strip()).unlink()
    serve(ours, SPOOL_DIR=spool)


@pytest.mark.parametrize("prefix", ["a{b}", "a:b", "x" * 33, "jwt", "sentinel", "a b", "ä"])
def test_a_prefix_that_would_not_do(ours: Stack, prefix: str) -> None:
    """Braces would move keys to other nodes; others could be taken for other keys."""
    assert "REDIS_PREFIX" in refusal(ours, REDIS_PREFIX=prefix)


def test_doctor_looks_and_claims_nothing(theirs: Stack, ours: Stack) -> None:
    """It tells of a Redis that is another's, and takes none."""
    environment = ours.sentinel(start=False).environment
    for url, said in ((ours.store.url, "redis version"), (theirs.store.url, "is not ours")):
        done = subprocess.run(
            [*ours.sentinels[0].command[:-1], "doctor"],
            env={"PATH": os.environ["PATH"], **environment, "REDIS_URL": url},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
            check=False,
        )
        assert said in done.stdout
    assert ask(ours.store.url, "KEYS", "sentinel:installation") == []
