"""A real Redis Sentinel on this machine, which watches one master and decides alone."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from sentinel.dev.ports import free_port
from sentinel.dev.store import EmbeddedStore, binary
from tests.support.waiting import wait_until


@contextlib.contextmanager
def watcher(folder: Path, master: EmbeddedStore, replicas: int = 1) -> Iterator[int]:
    """One Redis Sentinel that watches a master, and decides alone; its port, once it knows the replicas."""
    port = free_port()
    config = folder / "watcher.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n"
    )
    process = subprocess.Popen([binary(), str(config), "--sentinel"], stdout=subprocess.DEVNULL, cwd=folder)
    try:
        wait_until(lambda: _replicas(port) == replicas, "the watcher")
        yield port
    finally:
        process.kill()
        process.wait(10)


def _replicas(port: int) -> int:
    with contextlib.closing(Redis(port=port)) as client, contextlib.suppress(RedisError):
        return len(client.execute_command("SENTINEL", "replicas", "main"))
    return -1
