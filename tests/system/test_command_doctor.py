"""`sentinel doctor`: one line for each check, a remedy beside what is wrong, and a status for scripts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.dev.store import EmbeddedStore
from tests.stack import Stack

COMMAND = str(Path(sys.executable).parent / "sentinel")
SUBJECTS = [
    *("settings", "spool", "redis version", "redis eviction", "redis persistence", "redis scripts", "outbox"),
    *("zion", "provider"),
]


@pytest.fixture
def settings(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return {
        "ZION_API_URL": stack.simulators.zion_url,
        "ZION_API_KEY": stack.simulators.zion_key,
        "OPENAI_API_KEY": stack.simulators.openai_key,
        "OPENAI_API_URL": stack.simulators.openai_url,
        "REDIS_URL": stack.store.url,
        "SPOOL_DIR": str(tmp_path / "spool"),
    }


def doctor(folder: Path, settings: dict[str, str], *arguments: str) -> tuple[int, dict[str, str]]:
    """Its status, and its lines by subject."""
    done = subprocess.run(
        [COMMAND, "doctor", *arguments],
        env={"PATH": os.environ["PATH"], **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    for secret in (settings["ZION_API_KEY"], settings["OPENAI_API_KEY"], "redis-password"):
        assert secret not in done.stdout + done.stderr
    lines = {line[6:24].strip(): line for line in done.stdout.splitlines()}
    assert all(line.startswith(("ok    ", "FAIL  ")) for line in lines.values()), done.stdout
    failed = any(line.startswith("FAIL") for line in lines.values())
    assert failed == any(" -> " in line for line in lines.values())
    assert done.returncode == (1 if failed else 0)
    return done.returncode, lines


def test_all_is_well(settings: dict[str, str], tmp_path: Path) -> None:
    """Everything is there: a line for each, status 0."""
    status, lines = doctor(tmp_path, settings)
    assert (status, list(lines)) == (0, SUBJECTS)


def test_what_is_away_is_named_with_a_remedy(settings: dict[str, str], tmp_path: Path) -> None:
    """Nothing is there: still a line for each, with what to do, status 1."""
    (tmp_path / "file").write_text("")
    away = "http://127.0.0.1:9"
    settings |= {"REDIS_URL": "redis://:redis-password@127.0.0.1:9", "SPOOL_DIR": str(tmp_path / "file" / "x")}
    status, lines = doctor(tmp_path, {**settings, "ZION_API_URL": away, "OPENAI_API_URL": away})
    assert status == 1
    assert "SPOOL_DIR" in lines["spool"].partition(" -> ")[2]
    assert "REDIS_URL" in lines["redis"].partition(" -> ")[2]
    assert "ZION_API_URL" in lines["zion"].partition(" -> ")[2]
    assert "OPENAI_API_URL" in lines["provider"].partition(" -> ")[2]


def test_wrong_keys_are_named(settings: dict[str, str], tmp_path: Path) -> None:
    """A key that is not taken is told from a server that is away."""
    status, lines = doctor(tmp_path, {**settings, "ZION_API_KEY": "wrong-zion", "OPENAI_API_KEY": "wrong-openai"})
    assert status == 1
    assert "ZION_API_KEY" in lines["zion"].partition(" -> ")[2]
    assert "OPENAI_API_KEY" in lines["provider"].partition(" -> ")[2]


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that evicts and keeps nothing on disk."""
    extra = {"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}
    with EmbeddedStore(tmp_path / "careless", appendonly="no", extra=extra) as store:
        yield store


def test_a_store_that_forgets_is_named(careless: EmbeddedStore, settings: dict[str, str], tmp_path: Path) -> None:
    """Eviction and missing persistence would lose usage: each has its remedy."""
    status, lines = doctor(tmp_path, {**settings, "REDIS_URL": careless.url})
    assert status == 1
    assert lines["redis version"].startswith("ok")
    assert "noeviction" in lines["redis eviction"].partition(" -> ")[2]
    assert "appendonly yes" in lines["redis persistence"].partition(" -> ")[2]


def test_a_store_without_config_is_not_called_away(stack: Stack, settings: dict[str, str], tmp_path: Path) -> None:
    """Hosted stores forbid CONFIG; the doctor says so, and goes on."""
    port, rule = stack.store.port, ["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config"]
    command = b"".join([b"*%d\r\n" % len(rule), *(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in rule)])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(command)
        assert connection.recv(100) == b"+OK\r\n"
    status, lines = doctor(tmp_path, {**settings, "REDIS_URL": f"redis://app:pw@127.0.0.1:{port}"})
    assert (status, list(lines)) == (0, SUBJECTS)
    assert "CONFIG is forbidden" in lines["redis eviction"]


def test_wrong_settings_are_listed_instead(tmp_path: Path) -> None:
    """Without settings there is nothing to examine: all mistakes, status 2."""
    done = subprocess.run(
        [COMMAND, "doctor"], env={}, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("  - ") == 3
