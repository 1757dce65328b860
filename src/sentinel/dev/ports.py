"""Ports for servers that are started a moment later, or that come back to the port that they had.

The port that the kernel gives a socket bound to port 0 lies in the range of outgoing connections (ip(7),
ip_local_port_range): until our server listens there, or while it is away, any connection on this machine may have it.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_EPHEMERAL = 32_768
"""Where that file cannot be read: Linux' default; other systems begin later."""
_FIRST = 10_000
_TRIES = 100
_random = random.SystemRandom()
"""Without a seed: Hypothesis seeds the common one, and tests beside each other must not try the same ports in turn."""

_given: set[int] = set()
"""By this process. Its servers may be away for a while, and want their ports back."""


def free_port(host: str = "127.0.0.1", ports: range | None = None) -> int:
    """A port on which nobody listens, that no outgoing connection gets, and that this process was not given before.

    ports: those to choose from; None are all below the range of outgoing connections. Raises OSError if it finds none.
    """
    ports = range(_FIRST, _first_ephemeral()) if ports is None else ports
    for port in _random.choices(ports, k=_TRIES) if ports else ():
        if port not in _given and _is_free(host, port):
            _given.add(port)
            return port
    raise OSError(f"no free port on {host} from {ports.start} to {ports.stop - 1}")


def _first_ephemeral() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _FIRST_EPHEMERAL


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
