"""The embedded store, killed and paused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from sentinel.dev.store import EmbeddedStore
from tests.support.waiting import PATIENCE_SECONDS, wait_until


@pytest.fixture
def client(store: EmbeddedStore) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store.url, socket_timeout=2, retry=None) as client:
        yield client


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_evicts_nothing(client: redis.Redis) -> None:
    """A full store refuses writes; it never forgets."""
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_survives_restarts_and_kills_with_its_data(store: EmbeddedStore, client: redis.Redis) -> None:
    """Port and data stay, whatever ends the process."""
    url = store.url
    pids: set[int] = set()
    for round_number, end in enumerate((store.stop, store.kill, store.stop, store.kill)):
        client.set(f"key{round_number}", round_number)
        pids.add(store.pid)
        end()
        store.start()
        assert store.url == url
        assert [client.get(f"key{n}") for n in range(round_number + 1)] == [b"%d" % n for n in range(round_number + 1)]
    store.restart()
    assert client.get("key0") == b"0"
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids)


def test_pause_and_resume(store: EmbeddedStore, client: redis.Redis) -> None:
    """A paused store does not answer, a resumed one goes on."""
    store.pause()
    with redis.Redis.from_url(store.url, socket_timeout=0.1, retry=None) as hasty, pytest.raises(redis.TimeoutError):
        hasty.ping()
    store.resume()
    assert client.ping()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_paused_store_can_be_ended(store: EmbeddedStore, end: str) -> None:
    """Stop and kill work on a paused process, and it does not stay paused."""
    store.pause()
    getattr(store, end)()
    store.start()
    with redis.Redis.from_url(store.url) as client:
        assert client.ping()


def test_ending_twice_is_no_mistake(store: EmbeddedStore) -> None:
    """Stop and kill are idempotent; asking a stopped store for its pid is a mistake."""
    store.kill()
    store.kill()
    store.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = store.pid


def test_a_bad_setting_is_told(tmp_path: Path) -> None:
    """A server that dies while starting says why."""
    with pytest.raises(RuntimeError, match="died while starting"):
        EmbeddedStore(tmp_path, extra={"maxmemory-policy": "sometimes"}).start()


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "pass", "raise SystemExit(3)"])
def test_leaves_no_process_behind(tmp_path: Path, ending: str) -> None:
    """However the parent ends, also killed, and even if a short-lived thread started it, the server ends with it."""
    script = f"""
        import os, threading
        from pathlib import Path
        from sentinel.dev.store import EmbeddedStore
        store = EmbeddedStore(Path({str(tmp_path)!r}))
        starter = threading.Thread(target=store.start)
        starter.start()
        starter.join()
        import redis
        redis.Redis.from_url(store.url).ping()
        print(store.pid, flush=True)
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=2 * PATIENCE_SECONDS, check=False
    )
    assert done.returncode in {0, 3, -signal.SIGKILL}, done.stderr
    wait_until(lambda: not alive(int(done.stdout)))
