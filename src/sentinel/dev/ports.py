"""Ports for servers that are started a moment later, or that come back to the port that they had.

The port that the kernel gives a socket bound to port 0 lies in the range of outgoing connections (ip(7),
ip_local_port_range): until our server listens there, or while it is away, any connection on this machine may have it.
What no connection gets another process might be given, in the second before our server listens, or while it is away. So
who is given a port holds a socket of its name, in Linux' abstract namespace (unix(7)), for as long as it lives.
"""

from __future__ import annotations

import random
import socket
import sys
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
    """A port on which nobody listens, that no outgoing connection gets, and that nobody who still lives was given.

    ports: those to choose from; None are all below the range of outgoing connections. Raises OSError if it finds none.
    """
    ports = range(_FIRST, _first_ephemeral()) if ports is None else ports
    for port in _random.choices(ports, k=_TRIES) if ports else ():
        if port not in _given and _is_free(host, port) and _is_ours(port):
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


def _is_ours(port: int) -> bool:
    """Whether it is this process's from now on, and no other's."""
    if sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0sentinel.dev.ports/{port}")
    except OSError:
        claim.close()
        return False
    # The file stays open, and ends with this process.
    claim.detach()
    return True
