"""Health tells what requests meet at Redis, and what is wrong with the set-up of that.

About: `cache/health.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sentinel.cache import keys
from sentinel.cache.inspection import COMMANDS
from sentinel.dev.store import EmbeddedStore
from tests.support.cluster import EmbeddedCluster
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until
from tests.support.watcher import watcher

ROOT = Path(__file__).parents[2]

BODY = chat("[[tokens=3]]")
ALL = ("on", ">pw", "~*", "&*", "+@all")


def ask(store: EmbeddedStore, *command: str) -> Any:
    """One command to this store."""
    with contextlib.closing(Redis(port=store.port, decode_responses=True)) as client:
        return client.execute_command(*command)


@contextlib.contextmanager
def bad_redis(folder: Path, how: str) -> Iterator[str]:
    """The URL of a Redis that answers, and does not do what we need."""
    extra: dict[str, str] = {}
    user = [*ALL]
    match how:
        case "no FCALL":
            user.append("-fcall")
        case "no FUNCTION":
            user.append("-function")
        case "no XADD":
            user.append("-xadd")
        case "no ZADD":
            user.append("-zadd")
        case "no keys":
            user.remove("~*")
        case "renamed":
            extra["include"] = str(folder / "renamed.conf")
            (folder / "renamed.conf").write_text('rename-command FCALL ""\n')
        case "no replicas":
            extra["min-replicas-to-write"] = "1"
        case "full":
            extra["maxmemory"] = "1mb"
    with contextlib.ExitStack() as exits:
        store = exits.enter_context(EmbeddedStore(folder / "bad", extra=extra))
        if how == "replica":
            store = exits.enter_context(
                EmbeddedStore(folder / "replica", extra={"replicaof": f"127.0.0.1 {store.port}"})
            )
            wait_until(lambda: ask(store, "INFO", "replication")["master_link_status"] == "up", "the replica")
        ask(store, "ACL", "SETUSER", "app", *user)
        yield f"redis://app:pw@127.0.0.1:{store.port}"


def health(sentinel: SentinelProcess) -> tuple[int, str, dict[str, Any]]:
    """Statuses of /health, and what it says of Redis."""
    answer = send(sentinel, "GET", "/health")
    return answer.status, answer.json["status"], answer.json["checks"]["redis"]


def ready(sentinel: SentinelProcess) -> int:
    return send(sentinel, "GET", "/health/ready").status


def remedies(sentinel: SentinelProcess) -> str:
    """What the log says about the set-up, and what it tells to do."""
    lines = [line for line in sentinel.log() if line["event"] == "redis is not set up as it should be"]
    return " / ".join(f"{line['what']}: {line['found']} -> {line['remedy']}" for line in lines)


REFUSALS = {
    "no FCALL": ("does not permit FCALL", "ACL SETUSER NAME +fcall"),
    "no FUNCTION": ("does not permit FUNCTION LOAD", "ACL SETUSER NAME +function|load"),
    "no XADD": ("does not permit XADD", "ACL SETUSER NAME +xadd"),
    "no ZADD": ("does not permit ZADD", "ACL SETUSER NAME +zadd"),
    "no keys": ("denies us keys", "ACL SETUSER NAME ~sentinel:* ~jwt:* ~limits:*"),
    "renamed": ("does not know FCALL", "rename-command"),
    "full": ("", ""),
    "no replicas": ("", ""),
    "replica": ("", ""),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_health_is_red_while_every_request_is_refused(stack: Stack, tmp_path: Path, how: str) -> None:
    """Without rights, with a command that Redis does not know, full, read-only: not ready, and the start says why."""
    _, token = stack.user("ana@corp.test")
    with bad_redis(tmp_path, how) as url:
        sentinel = stack.sentinel(REDIS_URL=url, ready=False)
        local = stack.sentinel(REDIS_URL=url, REDIS_DOWN="local", SPOOL_DIR=str(tmp_path / "spool"))
        said, remedy = REFUSALS[how]
        wait_until(lambda: said in remedies(sentinel) and remedy in remedies(sentinel), "the warning")
        # Without XADD or ZADD the request itself finds out; whatever is asked in between.
        assert post(sentinel, token, BODY).status == 503 or how == "no XADD"
        wait_until(lambda: ready(sentinel) == 503, "not ready")
        status, word, redis = health(sentinel)
        assert (status, word, redis["status"]) == (503, "unhealthy", "unhealthy")
        assert redis["reason"]
        post(local, token, BODY)
        assert ready(local) == 200
        wait_until(lambda: health(local)[:2] == (200, "degraded"), "degraded")
        for process in (sentinel, local):
            process.kill()


@pytest.mark.parametrize("left", [keys.forget(), keys.breakers()])
def test_a_channel_out_of_reach_is_told(stack: Stack, tmp_path: Path, left: str) -> None:
    """Requests go on without it, so nothing is red; a user of Redis who was set up for fewer channels is told."""
    _, token = stack.user("channel@corp.test")
    with EmbeddedStore(tmp_path / "deaf") as store:
        ask(store, "ACL", "SETUSER", "app", "on", ">pw", "~*", f"&{left}", "+@all")
        sentinel = stack.sentinel(REDIS_URL=f"redis://app:pw@127.0.0.1:{store.port}")
        remedy = f"denies us keys or channels -> ACL SETUSER NAME {' '.join(keys.patterns())}"
        wait_until(lambda: remedy in remedies(sentinel), "the warning")
        assert post(sentinel, token, BODY).status == 200
        assert (ready(sentinel), health(sentinel)[1]) == (200, "healthy")
        sentinel.kill()


def test_it_is_green_soon_after(stack: Stack, tmp_path: Path) -> None:
    """A full Redis gets room: ready again within seconds, without a restart."""
    _, token = stack.user("ben@corp.test")
    with EmbeddedStore(tmp_path / "full", extra={"maxmemory": "1mb"}) as store:
        sentinel = stack.sentinel(REDIS_URL=store.url, ready=False)
        assert ready(sentinel) == 503
        ask(store, "CONFIG", "SET", "maxmemory", "0")
        wait_until(lambda: ready(sentinel) == 200, "ready")
        assert post(sentinel, token, BODY).status == 200
        sentinel.kill()


def test_one_account_that_cannot_be_read_turns_nothing_red(stack: Stack) -> None:
    """What is wrong with one user's keys is refused to that user, who must not have all replicas taken away."""
    sentinel = stack.sentinel()
    (_, token), (_, other) = stack.user("broken@corp.test"), stack.user("sound@corp.test")
    with contextlib.closing(Redis(port=stack.store.port)) as client:
        client.hset(keys.account_keys("broken").account, "a", "b")
    assert post(sentinel, token, BODY).status == 503
    assert (ready(sentinel), health(sentinel)[1]) == (200, "healthy")
    assert post(sentinel, other, BODY).status == 200
    sentinel.kill()


def test_a_crowd_of_health_checks_asks_redis_once_a_second(stack: Stack) -> None:
    """However many ask, Redis is probed once."""
    sentinel = stack.sentinel()

    def probes() -> int:
        with contextlib.closing(Redis(port=stack.store.port)) as client:
            return int(client.info("commandstats").get("cmdstat_fcall", {"calls": 0})["calls"])

    ready(sentinel)
    before = probes()
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: ready(sentinel), range(200))) == {200}
    # The lease expirer calls a function for each partition, too, now and then; but not at every check.
    assert probes() - before < 190
    sentinel.kill()


# ------------------------------------------------------------------------------------------------------------ set-up

CARELESS = {"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}


def test_what_a_redis_forgets_is_told(stack: Stack, tmp_path: Path) -> None:
    """Eviction and no append-only file: a warning each at the start, in /health and as metrics, until it is mended."""
    with EmbeddedStore(tmp_path / "careless", appendonly="no", extra=CARELESS) as store:
        sentinel = stack.sentinel(REDIS_URL=store.url)
        wait_until(lambda: remedies(sentinel).count("->") == 2, "the warnings")
        report = send(sentinel, "GET", "/health").json
        assert report["status"] == "healthy"
        assert [line.split(":")[0] for line in report["warnings"]] == ["redis eviction", "redis persistence"]
        for what, value in (("eviction", 1), ("persistence", 1), ("version", 0), ("commands", 0)):
            assert sentinel.metric(f'sentinel_store_misconfigured{{what="{what}"}}') == value
        ask(store, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        ask(store, "CONFIG", "SET", "appendonly", "yes")
        # A new connection is looked at anew.
        ask(store, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: send(sentinel, "GET", "/health").json["warnings"] == [], "no more warnings")
        assert sentinel.metric("sentinel_store_misconfigured") == 0
        sentinel.kill()


@pytest.fixture(scope="module")
def cluster(stack: Stack) -> Iterator[EmbeddedCluster]:
    """Three masters, without a file, of which one evicts."""
    with EmbeddedCluster(stack.folder / "cluster") as cluster:
        cluster.ask(cluster.nodes[1], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        yield cluster


def test_every_node_of_a_cluster_is_looked_at(stack: Stack, cluster: EmbeddedCluster) -> None:
    """How many of them are not set up as they should be."""
    sentinel = stack.sentinel(REDIS_URL=cluster.url)
    warnings = send(sentinel, "GET", "/health").json["warnings"]
    assert [line.partition(" ->")[0] for line in warnings] == [
        "redis eviction: allkeys-lru (on 1 of 3 masters)",
        "redis persistence: no append-only file (on 3 of 3 masters)",
    ]
    assert sentinel.metric("sentinel_store_misconfigured") == 2
    sentinel.kill()


def test_a_cluster_is_ready_while_it_serves_some(stack: Stack, cluster: EmbeddedCluster) -> None:
    """One master that refuses: degraded, for the others' users are served; all of them: not ready."""
    sentinel = stack.sentinel(REDIS_URL=cluster.url)
    assert health(sentinel)[:2] == (200, "healthy")
    cluster.ask(cluster.nodes[2], "CONFIG", "SET", "maxmemory", "1")
    wait_until(lambda: health(sentinel)[:2] == (200, "degraded"), "degraded")
    assert health(sentinel)[2]["reason"] == "1 of 3 masters: has no memory left"
    assert ready(sentinel) == 200
    for node in cluster.nodes:
        cluster.ask(node, "CONFIG", "SET", "maxmemory", "1")
    wait_until(lambda: ready(sentinel) == 503, "not ready")
    for node in cluster.nodes:
        cluster.ask(node, "CONFIG", "SET", "maxmemory", "0")
    wait_until(lambda: health(sentinel)[:2] == (200, "healthy"), "healthy")
    sentinel.kill()


# ------------------------------------------------------------------------------------------------ behind Redis Sentinel


def test_the_master_behind_redis_sentinel_is_looked_at(stack: Stack, tmp_path: Path) -> None:
    """The set-up of whoever is the master now; another one may be set up otherwise."""
    with (
        EmbeddedStore(tmp_path / "master", extra=CARELESS) as master,
        watcher(tmp_path, master, replicas=0) as port,
    ):
        sentinel = stack.sentinel(REDIS_URL=f"redis+sentinel://127.0.0.1:{port}/main")
        assert health(sentinel)[:2] == (200, "healthy")
        assert sentinel.metric('sentinel_store_misconfigured{what="eviction"}') == 1
        sentinel.kill()


# ---------------------------------------------------------------------------------------------------------- our rights


def used() -> set[tuple[str, ...]]:
    """The commands that the code names."""
    found = set()
    for path in (ROOT / "src/sentinel").rglob("*.*"):
        if path.suffix == ".lua":
            found |= set(re.findall(r"\bp?call\('([A-Z]+)'(?:, '(CREATE)')?", path.read_text()))
        elif path.suffix == ".py" and "dev" not in path.parts:
            found |= set(re.findall(r"\bcommand\(\s*\"([A-Z]+)\"()", path.read_text()))
    return {tuple(filter(None, names)) for names in found} - {("CLUSTER",)}


def test_every_command_that_we_use_is_tried_at_the_start() -> None:
    """And no other: the list is that of the code, of scripts and of functions."""
    calls = {("EVALSHA",), ("FCALL",), ("FUNCTION", "LOAD"), ("SCRIPT", "LOAD")}
    assert used() | calls == set(COMMANDS)


def rule() -> list[str]:
    """The rights that docs/redis.md gives to our user."""
    [line] = re.findall(r"ACL SETUSER sentinel (.*)", (ROOT / "docs/redis.md").read_text())
    return list(line.split())


def test_the_page_gives_the_rights_that_we_need() -> None:
    """All that is tried, and nothing else."""
    commands = [f"+{'|'.join(name).lower()}" for name in COMMANDS]
    others = ["+@connection", "+subscribe", "+unsubscribe", "+cluster|slots", "+cluster|shards", "+command"]
    assert rule() == ["on", ">PASSWORD", *keys.patterns(), *others, *commands]


def test_these_rights_are_enough(stack: Stack, tmp_path: Path) -> None:
    """A user with them: all is served, delivered and forgotten, doctor is content, and nothing is refused."""
    _, token = stack.user("right@corp.test")
    with EmbeddedStore(tmp_path / "strict") as store:
        ask(store, "ACL", "SETUSER", "sentinel", *(word.replace("PASSWORD", "pw") for word in rule()))
        url = f"redis://sentinel:pw@127.0.0.1:{store.port}"
        sentinel = stack.sentinel(
            REDIS_URL=url, RATE_LIMITS="ai_requests=100/60s", ADMIN_KEY="admin-key", LEASE_SECONDS="1"
        )
        for fields in ({}, {"stream": True}):
            assert post(sentinel, token, {**BODY, **fields}).status == 200
        assert stack.booked(2, "right@corp.test")["ai_requests"] == 2
        path = "/admin/users/right/refresh"
        assert send(sentinel, "POST", path, Authorization="Bearer admin-key").status == 200
        report = send(sentinel, "GET", "/health").json
        assert (report["status"], report["warnings"]) == ("healthy", [])
        channels = (keys.forget(), keys.breakers())
        assert ask(store, "PUBSUB", "NUMSUB", *channels) == [keys.forget(), 1, keys.breakers(), 1]
        assert [line["event"] for line in sentinel.log() if line["level"] != "info"] == []
        assert sentinel.stop() == 0
        assert ask(store, "ACL", "LOG") == []


def test_these_rights_are_enough_on_a_cluster(stack: Stack, tmp_path: Path) -> None:
    """There redis-py asks for its nodes, too."""
    _, token = stack.user("everywhere@corp.test")
    with EmbeddedCluster(tmp_path / "strict") as cluster:
        for node in cluster.nodes:
            cluster.ask(node, "ACL", "SETUSER", "sentinel", *(word.replace("PASSWORD", "pw") for word in rule()))
        url = cluster.url.replace("//", "//sentinel:pw@")
        sentinel = stack.sentinel(REDIS_URL=url)
        assert post(sentinel, token, BODY).status == 200
        assert stack.booked(1, "everywhere@corp.test")["ai_requests"] == 1
        wait_until(lambda: any(cluster.ask(n, "PUBSUB", "CHANNELS") for n in cluster.nodes), "the channel")
        assert [cluster.ask(node, "ACL", "LOG") for node in cluster.nodes] == [[], [], []]
        sentinel.kill()
