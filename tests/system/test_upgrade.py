"""A rolling upgrade: processes of an earlier commit, from its wheel, and of this one on the same Redis and Zion."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.crowd import crowd, post
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat
from tests.support.waiting import PATIENCE_SECONDS, until

EARLIER = "7204ece"
"""The last commit that wrote no installation key; its layout has the same number as ours."""
ROOT = Path(__file__).parents[2]
OUTPUT = 7
BODY = chat(f"[[tokens={OUTPUT}]]")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with what the wheel of that commit installs."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = folder / "source.zip"
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "-o", str(archive), EARLIER], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"this checkout does not have the commit {EARLIER}: {made.stderr.strip()}")
    zipfile.ZipFile(archive).extractall(folder / "source")
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [*wheel, "--wheel-dir", str(folder), str(folder / "source")], check=True, timeout=2 * PATIENCE_SECONDS
    )
    [built] = folder.glob("*.whl")
    zipfile.ZipFile(built).extractall(folder / "installed")
    return str(folder / "installed")


def pair(stack: Stack, earlier: str, **settings: str) -> tuple[SentinelProcess, SentinelProcess]:
    """One process of either."""
    settings = {"LEASE_SECONDS": "2", **settings}
    return stack.sentinel(settings, PYTHONPATH=earlier), stack.sentinel(settings)


@pytest.mark.parametrize("limit", ["window", "quota", "concurrency"])
async def test_a_limit_is_one_limit_for_both(stack: Stack, earlier: str, limit: str) -> None:
    """A crowd over both is admitted exactly, whichever kind of limit it meets, and is booked once."""
    rates = {"window": "ai_requests=50/1h", "quota": "ai_requests=1000/1h", "concurrency": "concurrency=5"}[limit]
    old, new = await asyncio.to_thread(pair, stack, earlier, RATE_LIMITS=rates)
    email = f"{limit}@corp.test"
    _, token = stack.user(email, **({"limits": {"ai_requests": 50}} if limit == "quota" else {}))
    body = chat("[[tokens=20 delay=0.05]]") if limit == "concurrency" else BODY
    answers = await crowd([old, new], token, [body] * (20 if limit == "concurrency" else 200))
    admitted = [answer.status for answer in answers].count(200)
    assert {answer.status for answer in answers} == {200, 429}
    assert admitted == (5 if limit == "concurrency" else 50)
    booked = await asyncio.to_thread(stack.booked, admitted, email)
    assert booked["ai_requests"] == admitted
    assert await asyncio.to_thread(old.stop) == await asyncio.to_thread(new.stop) == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_the_old_one_ends_under_load(stack: Stack, earlier: str, end: str) -> None:
    """In order or by a crash, while both serve: what was answered is booked, once; what was open is given back."""
    old, new = await asyncio.to_thread(pair, stack, earlier, RATE_LIMITS="ai_requests=10000/1h,concurrency=50")
    users = [
        (f"{end}{n}@corp.test", stack.user(f"{end}{n}@corp.test", limits={"ai_requests": 500})[1]) for n in range(6)
    ]
    served = dict.fromkeys((email for email, _ in users), 0)

    async def load(sentinel: SentinelProcess, rounds: int) -> None:
        for turn in range(rounds):
            email, token = users[turn % len(users)]
            stream = turn % 2 == 0
            try:
                answer = await post(sentinel, token, {**BODY, "stream": stream})
            except OSError:
                return
            # A stream that the kill cut was not answered in full; it may have been settled or not.
            in_full = answer.body.rstrip().endswith(b"[DONE]" if stream else b"}")
            served[email] += answer.status == 200 and in_full and b"error" not in answer.body

    loads = [asyncio.create_task(load(sentinel, 120)) for sentinel in (old, new, old, new)]
    await until(lambda: sum(served.values()) > 60, "some answers")
    await asyncio.to_thread(old.stop if end == "stop" else old.kill)
    await asyncio.gather(*loads, return_exceptions=True)
    await load(new, 30)
    for email, count in served.items():
        booked = await asyncio.to_thread(stack.booked, count, email)
        # Of what the killed one had open, it may have settled up to one request of each user before its client heard.
        assert 0 <= booked["ai_requests"] - count <= (2 if end == "kill" else 0)
        assert booked["ai_output_tokens"] == booked["ai_requests"] * OUTPUT
    assert await asyncio.to_thread(new.stop) == 0


async def test_back_to_the_old_one(stack: Stack, earlier: str) -> None:
    """What this version leaves behind an earlier one takes up: limits, usage that waits, and the spent window."""
    email = "back@corp.test"
    _, token = stack.user(email, limits={"ai_requests": 1000})
    stack.simulators.zion.faults.set(status=503, path_prefix="/api/v1/usage")
    new = await asyncio.to_thread(stack.sentinel, RATE_LIMITS="ai_requests=30/1h")
    answers = await crowd([new], token, [BODY] * 20)
    assert {answer.status for answer in answers} == {200}
    await asyncio.to_thread(new.kill)
    stack.simulators.zion.faults.clear()
    old = await asyncio.to_thread(stack.sentinel, PYTHONPATH=earlier, RATE_LIMITS="ai_requests=30/1h")
    answers = await crowd([old], token, [BODY] * 60)
    assert [answer.status for answer in answers].count(200) == 10
    assert (await asyncio.to_thread(stack.booked, 30, email))["ai_requests"] == 30
    assert await asyncio.to_thread(old.stop) == 0
