"""How many files a process may have open, and so how many clients it may have."""

from __future__ import annotations

import contextlib
import resource

_MOST_FILES = 65_536
"""Open files of a process: 30,000 streams, with a socket on either side. A process that holds more has other limits."""
_LEAST_SPARE_FILES = 128
_LEAST_OWN_FILES = 48
"""A process that does nothing has about 35."""


def allow_many_files() -> None:
    """Let this process, and the workers that it starts, have as many open files as the hard limit allows.

    The soft limit is 1024 in most places, for the sake of programs that call select(); clients that connect and say
    nothing would keep all others out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        # Some systems have a maximum that getrlimit does not tell; fewer files are no reason not to start.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> tuple[int, int]:
    """How many clients this process may have, and how many connections with those to providers.

    A client that comes then takes the place of another one, instead of finding nobody who answers. What is left of its
    files is for Redis, Zion, the spool and the log.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = _MOST_FILES if files == resource.RLIM_INFINITY else files
    spare = max(files // 8, min(_LEAST_SPARE_FILES, files // 2))
    return max(1, files - spare), max(2, files - max(_LEAST_OWN_FILES, spare // 2))
