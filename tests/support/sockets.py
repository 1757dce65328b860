"""Sockets without a library around them: how they end, and their options as the kernel has them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def close(connection: socket.socket) -> None:
    """End a connection in good order."""
    connection.close()


def reset(connection: socket.socket) -> None:
    """End a connection at once: closing sends a reset and no FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()


def nodelay_of_ends(port: int) -> list[int]:
    """TCP_NODELAY of each of this process's connections whose other end has this port."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        # Whatever is closed meanwhile, or has no other end, is none of them.
        with contextlib.suppress(OSError):
            if not str(file.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(file.name))) as end:
                if end.family == socket.AF_INET and end.getpeername()[1] == port:
                    found.append(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    return found
