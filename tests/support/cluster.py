"""A real cluster of Valkey nodes on this machine: masters with a replica each, that fail over by themselves."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis

from sentinel.dev.ports import free_port
from sentinel.dev.store import EmbeddedStore
from tests.support.waiting import wait_until

_SLOTS = 16_384
_NODE_TIMEOUT_MS = 1_000
"""So long a node must be silent before the others replace it: short for a test, long enough for a busy machine."""


class EmbeddedCluster:
    """So many masters, each with so many replicas. `nodes` are the masters first."""

    def __init__(self, folder: Path, masters: int = 3, replicas: int = 0) -> None:
        self.masters = masters
        self.nodes = [
            EmbeddedStore(
                folder / f"node-{number}",
                appendonly="no",
                extra={
                    "cluster-enabled": "yes",
                    "cluster-port": str(free_port()),
                    "cluster-node-timeout": str(_NODE_TIMEOUT_MS),
                    "cluster-replica-validity-factor": "0",
                    "repl-diskless-sync-delay": "0",
                },
            )
            for number in range(masters * (1 + replicas))
        ]

    @property
    def url(self) -> str:
        """What goes into REDIS_URL."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def client(self, node: EmbeddedStore) -> Redis:
        """A connection to one node."""
        return Redis(port=node.port, decode_responses=True, socket_timeout=5)

    def ask(self, node: EmbeddedStore, *command: Any) -> Any:
        """One command to one node."""
        with contextlib.closing(self.client(node)) as client:
            return client.execute_command(*command)

    def start(self) -> Self:
        """Return when every node knows the others and all slots are served."""
        for node in self.nodes:
            node.start()
        step = -(-_SLOTS // self.masters)
        for number, node in enumerate(self.nodes[: self.masters]):
            last = min(_SLOTS, (number + 1) * step) - 1
            self.ask(node, "CLUSTER ADDSLOTSRANGE", number * step, last)
            self.ask(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            bus = self.ask(node, "CONFIG", "GET", "cluster-port")["cluster-port"]
            self.ask(self.nodes[0], "CLUSTER MEET", "127.0.0.1", node.port, bus)
        wait_until(lambda: all(self._knows(node) == len(self.nodes) for node in self.nodes), "the meeting of the nodes")
        for number, node in enumerate(self.nodes[self.masters :]):
            self.ask(node, "CLUSTER REPLICATE", self.ask(self.nodes[number % self.masters], "CLUSTER MYID"))
        wait_until(lambda: all(self._serves(node) for node in self.nodes), "the cluster")
        wait_until(lambda: all(self._follows(node) for node in self.nodes[self.masters :]), "the replicas")
        return self

    def _knows(self, node: EmbeddedStore) -> int:
        return int(self.ask(node, "CLUSTER INFO")["cluster_known_nodes"])

    def _serves(self, node: EmbeddedStore) -> bool:
        return bool(self.ask(node, "CLUSTER INFO")["cluster_state"] == "ok")

    def _follows(self, node: EmbeddedStore) -> bool:
        return bool(self.ask(node, "INFO", "replication").get("master_link_status") == "up")

    def stop(self) -> None:
        """End all nodes at once."""
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
