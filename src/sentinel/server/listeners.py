"""The sockets that the server listens on."""

from __future__ import annotations

import contextlib
import errno
import socket

from sentinel.config import ConfigError, Settings
from sentinel.invocation import with_setting

BACKLOG = 4096
_ACCEPTS_AT_ONCE = 16
"""libuv takes one connection from a listening socket in each turn of the loop; of 1,000 that came together under full
load the last waited for four seconds. The event loop gets the socket so many times."""
_FIRST_PORT = 1024
"""Those below are for root."""


def listeners_for(settings: Settings, command: str = "serve") -> list[socket.socket]:
    """A socket bound to SENTINEL_HOST and SENTINEL_PORT, several times; it refuses connections until a server listens.

    command: the one that is running, to be named where the address cannot be had: then it raises ConfigError.
    """
    host, port = settings.sentinel_host, settings.sentinel_port
    try:
        listener = _bound(host, port)
    except (OSError, UnicodeError) as error:
        raise ConfigError([_cannot_listen(host, port, error, command)]) from error
    return [listener, *(listener.dup() for _ in range(_ACCEPTS_AT_ONCE - 1))]


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_listen(host: str, port: int, error: Exception, command: str) -> str:
    reason = getattr(error, "strerror", None) or "no such address"
    text = f"SENTINEL_HOST, SENTINEL_PORT: cannot listen on {host} port {port}: {reason}"
    if getattr(error, "errno", None) not in (errno.EADDRINUSE, errno.EACCES):
        return text
    return f"{text}; another port: {with_setting(f'SENTINEL_PORT={free_port(host, port + 1)}', command)}"


def free_port(host: str, first: int) -> int:
    """The first port from `first` on, and not among those that are for root, on which one can listen."""
    for port in range(max(first, _FIRST_PORT), 65_536):
        with contextlib.suppress(OSError):
            _bound(host, port).close()
            return port
    return first
