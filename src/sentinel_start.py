"""The first steps of the command `sentinel`, before the package is loaded, which takes some tenths of a second.

A module beside the package, for importing anything in that loads more than these steps need.
"""

import os
import signal
import sys

_SERVICES = (["serve"], ["dev"])


def entry() -> None:
    """Run the command that this process was started for, and end with its exit status."""
    open_what_is_closed()
    if sys.argv[1:2] in _SERVICES or sys.argv[1:3] == ["governance", "serve"]:
        listen_to_signals()
    from sentinel.cli import entry as run  # noqa: PLC0415 (the steps come first)

    run()


def open_what_is_closed() -> None:
    """Let stdin, stdout and stderr be something (`sentinel serve >&-`).

    The next file or socket that is opened would have the number of stdout otherwise, and get the log lines.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is what it gets.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115 (open as long as the process)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115


def listen_to_signals() -> None:
    """Until the server has handlers of its own: what shall end it ends it well, what shall not does nothing."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda *_: os._exit(0))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
