"""A port that was given stays free for us: no outgoing connection takes it, and no server that is away loses it."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.dev.ports import free_port


def test_no_outgoing_connection_gets_it() -> None:
    """A port in their range was taken while a test's server was starting."""
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert all(free_port() < int(outgoing[0]) for _ in range(100))


def test_none_is_given_twice() -> None:
    """The server that has it may be away."""
    given = [free_port() for _ in range(300)]
    assert len(set(given)) == len(given)


def test_none_is_given_to_two_processes() -> None:
    """Tests run beside each other, and a server takes a second to listen. After the end of one its ports are free."""
    given = "from sentinel.dev.ports import free_port; print(free_port(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", given], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with pytest.raises(OSError, match="no free port"):
            free_port(ports=range(port, port + 1))
        other.kill()
    assert free_port(ports=range(port, port + 1)) == port


def test_one_can_listen_there() -> None:
    """At the first try."""
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_one_seed_does_not_make_one_order() -> None:
    """Hypothesis sets it in every test process alike."""
    given: list[set[int]] = []
    for _ in range(2):
        random.seed(0)
        given.append({free_port() for _ in range(20)})
    assert not given[0] & given[1]


def test_one_in_use_is_not_given() -> None:
    """Where all others are taken, it says so."""
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"no free port on 127.0.0.1 from {port} to {port}"):
            free_port(ports=range(port, port + 1))
