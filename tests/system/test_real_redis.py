"""Redis itself, beside the Valkey of all other tests: 7 serves, 6 is refused in words.

Of version 7 the `redis-server` of the PATH is taken; REDIS_SERVER_6 and REDIS_SERVER_7 name others.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.dev.store import EmbeddedStore
from tests.support.crowd import crowd
from tests.support.stack import Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until

BODY = chat("[[tokens=3]]")


def server(version: int) -> str:
    """The path of a Redis of this version; skips the test where there is none."""
    path = os.environ.get(f"REDIS_SERVER_{version}") or shutil.which("redis-server")
    if path is None:
        pytest.skip(f"no redis-server {version} here: install one, or name it in REDIS_SERVER_{version}")
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if f"v={version}." not in told:
        pytest.skip(f"{path} is {re.findall('v=[0-9.]+', told)}, not {version}: name one in REDIS_SERVER_{version}")
    return path


@pytest.fixture
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A Redis of the version that the test asks for."""
    with EmbeddedStore(tmp_path / "redis", server=server(request.param)) as store:
        yield store


@pytest.mark.parametrize("real", [7], indirect=True)
async def test_redis_7_serves(stack: Stack, real: EmbeddedStore) -> None:
    """A crowd is admitted exactly and booked once, and nothing is said against it."""
    sentinel = stack.sentinel(REDIS_URL=real.url, RATE_LIMITS="ai_requests=50/1h")
    _, token = stack.user("seven@corp.test")
    answers = await crowd([sentinel], token, [chat("[[tokens=3]]")] * 200)
    assert [answer.status for answer in answers].count(200) == 50
    assert stack.booked(50, "seven@corp.test")["ai_output_tokens"] == 150
    report = send(sentinel, "GET", "/health").json
    assert (report["status"], report["warnings"]) == ("healthy", [])
    assert [line["event"] for line in sentinel.log() if line["level"] != "info"] == []


@pytest.mark.parametrize("real", [6], indirect=True)
def test_redis_6_is_refused_in_words(stack: Stack, real: EmbeddedStore) -> None:
    """At the start, by health and to the request: no functions, no Sentinel."""
    sentinel = stack.sentinel(REDIS_URL=real.url, ready=False)
    _, token = stack.user("six@corp.test")
    [line] = wait_until(
        lambda: [line for line in sentinel.log() if line["event"] == "redis is not set up as it should be"]
    )
    assert line["what"] == "version"
    assert line["found"].startswith("6.")
    assert "7.0 or later" in line["remedy"]
    assert post(sentinel, token, BODY).status == 503
    report = send(sentinel, "GET", "/health")
    assert (report.status, report.json["checks"]["redis"]["reason"]) == (503, "does not know a command of ours")
    assert "7.0 or later" in report.json["warnings"][0]
    assert send(sentinel, "GET", "/health/ready").status == 503
