"""Sentinel on a Redis Cluster of three masters: the same promises, and a node may fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from sentinel.cache import keys
from tests.support import surface
from tests.support.cluster import EmbeddedCluster
from tests.support.crowd import crowd, post, start_all
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat
from tests.support.waiting import AT_ONCE_SECONDS, until, wait_until

OUTPUT = 7
BODY = chat(f"[[tokens={OUTPUT}]]")


@pytest.fixture(scope="module")
def cluster(stack: Stack) -> Iterator[EmbeddedCluster]:
    """Three masters, a replica for each."""
    with EmbeddedCluster(stack.folder / "cluster", replicas=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pair(stack: Stack, cluster: EmbeddedCluster) -> list[SentinelProcess]:
    """Two processes on the cluster."""
    return start_all(stack, 2, REDIS_URL=cluster.url, RATE_LIMITS="ai_requests=1000/1h", LEASE_SECONDS="2")


def users_on_each_node(stack: Stack, name: str, each: int, requests: int = 1000) -> list[list[tuple[str, str]]]:
    """(e-mail, token) of so many users, with so many requests, whose account lies on the first, second, third node."""
    found: list[list[tuple[str, str]]] = [[], [], []]
    number = 0
    while min(map(len, found)) < each:
        number += 1
        slot = key_slot(keys.account_keys(f"{name}{number}").account)
        node = found[slot * 3 // 16_384]
        if len(node) < each:
            email = f"{name}{number}@corp.test"
            node.append((email, stack.user(email, limits={"ai_requests": requests})[1]))
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_crowds_on_every_node_are_admitted_exactly(
    stack: Stack, pair: list[SentinelProcess], stream: bool
) -> None:
    """Over two processes, for a user on each node; what is admitted is booked at Zion."""
    for [(email, token)] in users_on_each_node(stack, f"crowd{stream}", 1, 50):
        answers = await crowd(pair, token, [{**BODY, "stream": stream}] * 200)
        assert [answer.status for answer in answers].count(200) == 50
        assert {answer.status for answer in answers} == {200, 429}
        booked = await asyncio.to_thread(stack.booked, 50, email)
        assert (booked["ai_requests"], booked["ai_output_tokens"]) == (50, 50 * OUTPUT)


def generated(stack: Stack) -> int:
    """Tokens of the stream that runs at the provider."""
    return sum(bill.completion_tokens for bill in list(stack.simulators.openai.billed) if bill.state == "running")


async def test_a_dead_process_gives_back_its_slots(stack: Stack, cluster: EmbeddedCluster) -> None:
    """Leases end on a cluster, too, and the usage of a killed stream is booked."""
    victim, other = start_all(stack, 2, REDIS_URL=cluster.url, RATE_LIMITS="concurrency=1", LEASE_SECONDS="2")
    email = "victim@corp.test"
    _, token = stack.user(email)
    slow = asyncio.create_task(post(victim, token, chat("[[tokens=5000 delay=0.01]]", stream=True)))
    await until(lambda: generated(stack) > 200, "two checkpoints")
    assert (await post(other, token, BODY)).status == 429
    victim.kill()
    await asyncio.gather(slow, return_exceptions=True)

    async def admitted() -> bool:
        return (await post(other, token, BODY)).status == 200

    await until(admitted, "the slot")
    assert (await asyncio.to_thread(stack.booked, 2, email))["ai_output_tokens"] > OUTPUT


async def test_a_node_fails_and_its_replica_takes_over(
    stack: Stack, cluster: EmbeddedCluster, pair: list[SentinelProcess]
) -> None:
    """Answers are 200 or a quick 503 meanwhile, then all users are served again, and all usage gets to Zion."""
    users = [user for node in users_on_each_node(stack, "failover", 3) for user in node]
    served = dict.fromkeys((email for email, _ in users), 0)

    async def one_round() -> list[int]:
        started = time.monotonic()
        answers = await asyncio.gather(*(post(pair[n % 2], token, BODY) for n, (_, token) in enumerate(users)))
        assert time.monotonic() - started < AT_ONCE_SECONDS
        for (email, _), answer in zip(users, answers, strict=True):
            assert answer.status in {200, 503}
            served[email] += answer.status == 200
        return [answer.status for answer in answers]

    assert set(await one_round()) == {200}
    await until(lambda: sum(stack.used(email)["ai_requests"] for email in served) == len(users), "the reports")
    cluster.nodes[0].kill()
    statuses = await one_round()
    assert 503 in statuses

    async def recovered() -> bool:
        return set(await one_round()) == {200}

    await until(recovered, "the replica")
    for email, count in served.items():
        booked = await asyncio.to_thread(stack.booked, count, email)
        assert booked["ai_requests"] == count
        assert booked["ai_output_tokens"] == count * OUTPUT
    # The old master comes back as a replica, and nobody is misled.
    cluster.nodes[0].start()
    await until(lambda: cluster.ask(cluster.nodes[0], "ROLE")[0] == "slave", "the return of the node")
    for _ in range(3):
        assert set(await one_round()) == {200}


async def test_what_a_lagging_replica_had_not_got_is_settled_again(stack: Stack) -> None:
    """A master dies with acknowledged settlements that its replica never saw: they are repeated, and booked once."""
    with EmbeddedCluster(stack.folder / "lagging", replicas=1) as cluster:
        [sentinel] = start_all(stack, 1, REDIS_URL=cluster.url, LEASE_SECONDS="2")
        [[(email, token)], *_] = users_on_each_node(stack, "lag", 1)
        assert (await post(sentinel, token, BODY)).status == 200
        await asyncio.to_thread(stack.booked, 1, email)
        stack.simulators.zion.faults.set(status=503, path_prefix="/api/v1/usage")
        master, replica = cluster.nodes[0], cluster.nodes[cluster.masters]
        # Stopped and cut off, it gets nothing of what comes, not even from the kernel's buffers.
        replica.pause()
        cluster.ask(master, "CLIENT", "KILL", "TYPE", "replica")
        answers = await asyncio.gather(*(post(sentinel, token, BODY) for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        master.kill()
        replica.resume()

        async def served() -> bool:
            return (await post(sentinel, token, BODY)).status == 200

        await until(served, "the replica")
        stack.simulators.zion.faults.clear()
        booked = await asyncio.to_thread(stack.booked, 22, email)
        assert (booked["ai_requests"], booked["ai_output_tokens"]) == (22, 22 * OUTPUT)
        sentinel.kill()


def test_what_is_forgotten_here_is_forgotten_everywhere(stack: Stack, cluster: EmbeddedCluster) -> None:
    """A refresh at one process reaches the memory of the other over the cluster's channel."""
    here, there = start_all(stack, 2, REDIS_URL=cluster.url, ADMIN_KEY="admin-key")
    _, token = stack.user("forgotten@corp.test")
    assert [surface.post(sentinel, token, BODY).status for sentinel in (here, there)] == [200, 200]
    stack.simulators.zion.revoke(token)
    path = "/admin/users/forgotten/refresh"
    assert surface.send(here, "POST", path, Authorization="Bearer admin-key").status == 200
    wait_until(lambda: surface.post(there, token, BODY).status == 401, "the refusal")
    assert surface.send(there, "GET", "/health").json["checks"]["tasks"]["failing"] == []
