"""`sentinel serve` as a process: how it starts, how it ends, and how several workers act as one.

About: `__main__.py`, `app.py`, `server/workers.py`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.client import events
from tests.support.processes import children_of, is_running
from tests.support.stack import START_SECONDS, SentinelProcess, Stack
from tests.support.surface import CHAT, chat, post, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

COMMAND = str(Path(sys.executable).parent / "sentinel")
GOOD = {"ZION_API_URL": "http://127.0.0.1:9", "ZION_API_KEY": "zion-key", "OPENAI_API_KEY": "sk-key"}


def serve(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(
        [COMMAND, "serve"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )


def mistakes(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a wrong start, which says nothing else."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    first, *lines = result.stderr.splitlines()
    assert "cannot start" in first
    assert all(line.startswith("  - ") for line in lines)
    return [line.removeprefix("  - ") for line in lines]


# ------------------------------------------------------------------------------------------------------ wrong starts


def test_a_start_without_settings_lists_what_is_missing(tmp_path: Path) -> None:
    """All three required settings are named at once."""
    lines = mistakes(serve(tmp_path))
    assert [line.split()[0] for line in lines] == ["OPENAI_API_KEY", "ZION_API_URL", "ZION_API_KEY"]


WRONG = {
    "ZION_API_URL": "zion.example.org",
    "ZION_API_KEY": "zion key with spaces",
    "OPENAI_API_KEY": "sk-secret\tvalue",
    "SENTINEL_PORT": "65536",
    "SENTINEL_WORKERS": "0",
    "SENTINEL_REPLICAS": "none",
    "SENTINEL_DEBUG": "perhaps",
    "REDIS_URL": "rediss://:redis-secret@localhost:6379/1?socket_timeout=3&ssl_ca_certs=/no/such/file&db=2",
    "REDIS_DOWN": "pass",
    "OPENAI_API_URL": "https://api.openai.com:99999/v1",
    "RATE_LIMITS": "ai_requests=100, ai_tokens=5/60s",
    "DEFAULT_OUTPUT_TOKENS": "-1",
    "LEASE_SECONDS": "0",
    "CACHE_TTL_SECONDS": "five",
    "JWT_CACHE_TTL_SECONDS": "nan",
    "CACHE_STALE_SECONDS": "-1",
    "USAGE_FLUSH_SECONDS": "0",
    "ZION_CALLS_PER_SECOND": "0",
    "MAX_BODY_BYTES": "1e9",
    "REQUEST_HEADER_TIMEOUT_SECONDS": "-1",
    "REQUEST_BODY_TIMEOUT_SECONDS": "inf",
    "UPSTREAM_CONNECT_TIMEOUT_SECONDS": "",
    "UPSTREAM_IDLE_TIMEOUT_SECONDS": "5 minutes",
    "ABANDONED_STREAMS": "keep",
    "SHUTDOWN_GRACE_SECONDS": "-0.1",
    "CORS_ORIGINS": "https://app.example.org/path",
    "ADMIN_KEY": "two words",
    "UPSTREAM_CA_FILE": "/no/such/ca.pem",
    "UPSTREAM_CLIENT_CERT_FILE": "/no/such/cert.pem",
    "ZION_CLIENT_KEY_FILE": "/no/such/key.pem",
    "SENTINEL_PROT": "8080",
    "RATE_LIMIT": "ai_requests=1/60s",
    "OPENAI_KEY": "sk-misspelt-secret",
    "LOG_LEVEL": "loud",
}
NAMED = {"ZION_CLIENT_KEY_FILE": "ZION_CLIENT_CERT_FILE"}
"""Where a mistake is told under the name of another setting."""


def test_every_wrong_setting_is_listed_and_no_secret_is_shown(tmp_path: Path) -> None:
    """One line for each mistake, whatever their number, without the values of secrets."""
    result = serve(tmp_path, **WRONG)
    lines = mistakes(result)
    assert sorted(re.split(r"[: ]", line)[0] for line in lines) == sorted(NAMED.get(name, name) for name in WRONG)
    told = {re.split(r"[: ]", line)[0]: line for line in lines}
    assert "did you mean RATE_LIMITS?" in told["RATE_LIMIT"]
    assert all(word in told["REDIS_URL"] for word in ("socket_timeout", "ssl_ca_certs: /no/such/file", "twice"))
    for secret in ("zion key", "sk-secret", "two words", "redis-secret", "misspelt-secret"):
        assert secret not in result.stderr


def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    """A port that somebody else has is named, with the reason."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (line,) = mistakes(serve(tmp_path, **GOOD, SENTINEL_HOST="127.0.0.1", SENTINEL_PORT=str(port)))
    assert "SENTINEL_PORT" in line
    assert str(port) in line
    assert "in use" in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_that_is_not_ours_is_told(tmp_path: Path, workers: str) -> None:
    """So is a host of another machine."""
    (line,) = mistakes(serve(tmp_path, **GOOD, SENTINEL_HOST="192.0.2.1", SENTINEL_WORKERS=workers))
    assert "192.0.2.1" in line


def test_a_place_for_usage_is_checked_at_the_start(tmp_path: Path) -> None:
    """A spool that cannot be written is a mistake, too."""
    (tmp_path / "file").write_text("")
    (line,) = mistakes(serve(tmp_path, **GOOD, SPOOL_DIR=str(tmp_path / "file" / "spool")))
    assert line.startswith("SPOOL_DIR: ")


def test_an_unreadable_env_file_is_told(tmp_path: Path) -> None:
    """A .env that is no text is a mistake like any other."""
    (tmp_path / ".env").write_bytes(b"ZION_API_URL=\xff\xfe")
    assert mistakes(serve(tmp_path)) == [".env cannot be read as UTF-8 text"]


def test_the_env_file_is_read_and_the_environment_wins(stack: Stack) -> None:
    """What stands in .env counts, except where the environment says otherwise."""
    sentinel = stack.sentinel(start=False)
    settings = dict(sentinel.environment)
    sentinel.environment = {"SENTINEL_PORT": settings.pop("SENTINEL_PORT"), "MAX_BODY_BYTES": "2000"}
    lines = [f"{name}={value}" for name, value in settings.items()]
    (sentinel.folder / ".env").write_text(
        "\n".join(["# comment", *lines, "MAX_BODY_BYTES=5000", "log_level = INFO", ""])
    )
    sentinel.start()
    _, token = stack.user("dotenv@corp.test")
    assert post(sentinel, token, chat()).status == 200
    assert post(sentinel, token, chat("x" * 3000)).is_error(413, "request_too_large")
    sentinel.kill()


def test_redis_may_come_later(tmp_path: Path) -> None:
    """Sentinel starts without Redis, says that it is not ready, and becomes ready."""
    with Stack() as stack:
        stack.store.stop()
        sentinel = stack.sentinel(ready=False)
        assert send(sentinel, "GET", "/health/ready").status == 503
        _, token = stack.user("late@corp.test")
        answer = post(sentinel, token, chat())
        assert answer.is_error(503, "service_unavailable", "server_error")
        assert int(answer.headers["retry-after"]) >= 1
        stack.store.start()
        wait_until(lambda: send(sentinel, "GET", "/health/ready").status == 200)
        assert post(sentinel, token, chat()).status == 200


@pytest.mark.parametrize(("redis_down", "meanwhile"), [("refuse", "503"), ("local", "from memory")])
def test_a_redis_that_is_away_is_told_once(tmp_path: Path, redis_down: str, meanwhile: str) -> None:
    """One line says where it should be, why it is not, and what happens meanwhile; another when it is back."""
    with Stack() as stack:
        stack.store.stop()
        sentinel = stack.sentinel(ready=False, REDIS_DOWN=redis_down, USAGE_FLUSH_SECONDS="0.05")
        address = f"127.0.0.1:{stack.store.port}"
        _, token = stack.user("away@corp.test")
        for _ in range(20):
            post(sentinel, token, chat("[[tokens=1 delay=0.02]]"))

        def told() -> list[tuple[str, str]]:
            return [(line["event"], line["level"]) for line in sentinel.log() if line.get("address") == address]

        wait_until(lambda: len(sentinel.ended(20)) == 20 and told(), "the lines of all requests")
        assert told() == [("redis is away", "warning")]
        (line,) = [line for line in sentinel.log() if line["event"] == "redis is away"]
        assert "connection refused" in line["reason"]
        assert meanwhile in line["meanwhile"]
        stack.store.start()
        wait_until(lambda: ("redis is there", "info") in told(), "a word that it is back")
        # Another reason, such as that it is still loading, is told, too.
        warnings = [(line["event"], line.get("reason")) for line in sentinel.log() if line.get("level") == "warning"]
        assert len(warnings) == len(set(warnings))


def test_a_redis_that_refuses_is_told_once(stack: Stack) -> None:
    """A wrong password is tried again and again, and told once, in words."""
    sentinel = stack.sentinel(ready=False, REDIS_URL=f"redis://app:wrong-one@127.0.0.1:{stack.store.port}")
    for _ in range(20):
        assert send(sentinel, "GET", "/health/ready").status == 503
    wait_until(lambda: any(line["event"] == "sentinel is ready" for line in sentinel.log()), "the log")
    (line,) = [line for line in sentinel.log() if line.get("level") == "warning"]
    assert line["event"] == "redis is away"
    assert "does not take our password" in line["reason"]
    assert "wrong-one" not in (sentinel.folder / "stdout").read_text()


def test_without_redis_the_end_waits_for_nothing(tmp_path: Path) -> None:
    """What waits in a Redis that is away cannot be delivered now."""
    with Stack() as stack:
        sentinel = stack.sentinel()
        stack.store.kill()
        wait_until(lambda: any(line["event"] == "redis is away" for line in sentinel.log()), "a word")
        assert sentinel.stop(5) == 0


# ---------------------------------------------------------------------------------------------------------- the end


@contextmanager
def open_stream(sentinel: SentinelProcess, token: str, text: str) -> Iterator[http.client.HTTPResponse]:
    """A stream of which the first event has come."""
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", CHAT, json.dumps(chat(text, stream=True)), {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline().startswith(b"data: ")
    with closing(connection), closing(answer):
        yield answer


def refuses(sentinel: SentinelProcess) -> bool:
    """Whether nobody listens at its port any more."""
    try:
        socket.create_connection(("127.0.0.1", sentinel.port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def messages(sentinel: SentinelProcess) -> list[str]:
    return [line["event"] for line in sentinel.log()]


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_a_stream_finishes_before_the_end(stack: Stack, number: signal.Signals, workers: str) -> None:
    """After the signal nobody new is let in, the open stream ends as ever, its usage is delivered, the status is 0."""
    sentinel = stack.sentinel(SENTINEL_WORKERS=workers, USAGE_FLUSH_SECONDS="60")
    email = f"drain-{number.name}-{workers}@corp.test"
    _, token = stack.user(email)
    children = children_of(sentinel.pid)
    with open_stream(sentinel, token, "[[tokens=15 delay=0.1]]") as answer:
        sentinel.signal(number)
        wait_until(lambda: refuses(sentinel), "a closed port")
        assert events(b"data: " + answer.read().partition(b"data: ")[2])[-1] == "[DONE]"
    assert sentinel.process is not None
    assert sentinel.process.wait(PATIENCE_SECONDS) == 0
    assert stack.used(email) == {**stack.used(email), "ai_requests": 1, "ai_output_tokens": 15}
    assert [line["outcome"] for line in sentinel.ended()] == ["ok"]
    assert messages(sentinel)[-1] == "sentinel has stopped"
    assert "Traceback" not in (sentinel.folder / "stderr").read_text() + (sentinel.folder / "stdout").read_text()
    wait_until(lambda: not any(is_running(child) for child in children), "the end of every child")


def test_a_stream_that_outlasts_the_grace_is_ended_and_billed(stack: Stack, sentinel: SentinelProcess) -> None:
    """When the grace is over the stream gets an error event, and what was delivered of it is billed."""
    short = stack.sentinel(SHUTDOWN_GRACE_SECONDS="1", USAGE_FLUSH_SECONDS="60")
    _, token = stack.user("outlast@corp.test")
    with open_stream(short, token, "[[tokens=900 delay=0.05]]") as answer:
        short.signal(signal.SIGTERM)
        received = b"data: " + answer.read().partition(b"data: ")[2]
    assert short.process is not None
    assert short.process.wait(PATIENCE_SECONDS) == 0
    *chunks, last = events(received)
    assert json.loads(last)["error"]["code"] == "service_unavailable"
    assert b"[DONE]" not in received
    delivered = sum(bool(json.loads(chunk)["choices"][0]["delta"].get("content")) for chunk in chunks)
    assert delivered > 5
    assert stack.booked(1, "outlast@corp.test")["ai_output_tokens"] in (delivered, delivered + 1)
    assert [line["outcome"] for line in short.ended()] == ["shutdown"]


def test_a_request_without_an_answer_at_the_end_gets_a_503(stack: Stack) -> None:
    """A whole answer that does not come within the grace is an error that says to try again."""
    sentinel = stack.sentinel(SHUTDOWN_GRACE_SECONDS="1")
    _, token = stack.user("late-answer@corp.test")
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", CHAT, json.dumps(chat("[[first_delay=30]]")), {"Authorization": f"Bearer {token}"})
    wait_until(lambda: any(b"first_delay=30" in call.raw for call in stack.simulators.openai.calls))
    sentinel.signal(signal.SIGTERM)
    answer = connection.getresponse()
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert json.loads(answer.read())["error"]["code"] == "service_unavailable"
    assert sentinel.stop() == 0
    connection.close()


def test_an_idle_process_ends_at_once(stack: Stack) -> None:
    """Idle keep-alive connections do not hold the end up."""
    sentinel = stack.sentinel()
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/health/live")
    connection.getresponse().read()
    assert sentinel.stop(5) == 0
    connection.close()


def test_a_reader_of_stdout_that_leaves_ends_nothing(stack: Stack) -> None:
    """Nobody may read our log lines; requests are served all the same."""
    sentinel = stack.sentinel(start=False)
    read, write = os.pipe()
    process = subprocess.Popen(
        [COMMAND, "serve"], env={"PATH": os.environ["PATH"], **sentinel.environment}, cwd=sentinel.folder, stdout=write
    )
    try:
        os.close(read)
        os.close(write)
        sentinel.process = process
        wait_until(lambda: not refuses(sentinel) and send(sentinel, "GET", "/health/ready").status == 200)
        _, token = stack.user("silent@corp.test")
        for _ in range(5):
            assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
    finally:
        process.terminate()
        assert process.wait(20) == 0


# ---------------------------------------------------------------------------------------------------------- workers


def workers_of(sentinel: SentinelProcess) -> set[int]:
    """The processes that said that they are ready."""
    return {line["pid"] for line in sentinel.log() if line["event"] == "sentinel is ready"}


@pytest.fixture(scope="module")
def pair(stack: Stack) -> SentinelProcess:
    """Two workers."""
    sentinel = stack.sentinel(SENTINEL_WORKERS="2")
    wait_until(lambda: len(workers_of(sentinel)) == 2, "two workers", seconds=START_SECONDS)
    return sentinel


def test_metrics_are_summed_over_workers(stack: Stack, pair: SentinelProcess) -> None:
    """Whichever worker is asked tells of all requests."""
    _, token = stack.user("summed@corp.test")
    for _ in range(40):
        assert post(pair, token, chat("[[tokens=2]]")).status == 200
    success = 'sentinel_requests_total{model="gpt-4o-mini",status="success"}'
    wait_until(lambda: pair.metric(success) == 40, "the sum of both workers")
    tokens = 'sentinel_tokens_processed_total{model="gpt-4o-mini",type="completion"}'
    assert [pair.metric(tokens) for _ in range(6)] == [80] * 6
    assert pair.metric('sentinel_request_duration_seconds_bucket{le="+Inf",model="gpt-4o-mini"}') == 40
    assert stack.booked(40, "summed@corp.test")["ai_output_tokens"] == 80


def test_a_killed_worker_is_replaced_and_its_gauges_go(stack: Stack, pair: SentinelProcess) -> None:
    """A worker that dies with a request in flight is followed by another, and its gauge does not stay."""
    _, token = stack.user("victim@corp.test")
    in_flight = "sentinel_requests_in_flight"
    before = workers_of(pair)
    with open_stream(pair, token, "[[tokens=900 delay=0.1]]"):
        wait_until(lambda: pair.metric(in_flight) == 1, "the request in flight")
        for worker in before & set(children_of(pair.pid)):
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(workers_of(pair) - before) == 2, "new workers", seconds=START_SECONDS)
        wait_until(lambda: not refuses(pair) and pair.metric(in_flight) == 0, "an honest gauge")
    assert post(pair, token, chat("[[tokens=1]]")).status == 200


def test_no_worker_outlives_a_killed_supervisor(stack: Stack) -> None:
    """SIGKILL for the supervisor ends its workers in good order: streams finish and the port is free."""
    sentinel = stack.sentinel(SENTINEL_WORKERS="2")
    wait_until(lambda: len(workers_of(sentinel)) == 2, "two workers", seconds=START_SECONDS)
    workers = workers_of(sentinel)
    _, token = stack.user("orphan@corp.test")
    with open_stream(sentinel, token, "[[tokens=20 delay=0.05]]") as answer:
        sentinel.kill()
        assert answer.read().endswith(b"data: [DONE]\n\n")
    wait_until(lambda: not any(is_running(worker) for worker in workers), "the end of the workers")
    assert refuses(sentinel)
    assert stack.booked(1, "orphan@corp.test")["ai_output_tokens"] == 20
