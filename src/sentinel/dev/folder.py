"""What `sentinel dev` keeps from one run to the next: the data of store and governance, a token, the last run's log."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentinel.dev.simulators import Provider

_PROVIDERS = """\
# Written by `sentinel dev` whenever it starts: two simulated providers; the second serves where the first one fails.
# docs/providers.md tells what else such a file may say; yours is named by SENTINEL_CONFIG.

[providers.first]
{first.vendor.lines}
url = "{first.url}"
api_key = "file:{key}"

[providers.second]
{second.vendor.lines}
url = "{second.url}"
api_key = "file:{key}"

[models."*"]
targets = [{{ provider = "first" }}]
fallback = [{{ provider = "second"{model} }}]
"""


class InUse(Exception):
    """A living process has the folder. pid: 0 = it has not said; url: where it serves, "" = not yet."""

    def __init__(self, pid: int, url: str) -> None:
        super().__init__(f"in use by process {pid}")
        self.pid = pid
        self.url = url


class DataFolder:
    """A folder that one process has at a time. The lock ends with that process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store"
        self.spool = path / "spool"
        self.database = path / "governance.db"
        self.log = path / "sentinel.log"
        self._lock = -1

    def claim(self) -> None:
        """Have it for this process, until that ends. Raises InUse, OSError for a folder that cannot be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, url = os.pread(self._lock, 1000, 0).decode(errors="replace").strip().partition(" ")
            raise InUse(int(pid) if pid.isdecimal() else 0, url) from None
        self.announce("")

    def announce(self, url: str) -> None:
        """Write down who has the folder, for the next one who wants it."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()} {url}\n".encode(), 0)

    def token(self) -> str:
        """The demo user's token, the same in every run: what a shell has exported goes on working.

        A secret of this folder, not a constant: the provider may be a real one, and any web page can call this machine.
        """
        path = self.path / "token"
        with suppress(FileNotFoundError):
            if token := path.read_text().strip():
                return token
        token = f"sk-sentinel-{secrets.token_urlsafe(32)}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{token}\n")
        return token

    def name_providers(self, first: Provider, second: Provider) -> str:
        """Write down two providers with the same key, and return the path of the file that has them."""
        key_file, path = self.path / "simulator-key", self.path / "providers.toml"
        key_file.write_text(f"{first.simulator.api_key}\n")
        # Another vendor has other names for its models.
        is_same = first.vendor.name == second.vendor.name
        model = "" if is_same else f', model = "{second.vendor.model}"'
        path.write_text(_PROVIDERS.format(key=key_file.absolute(), first=first, second=second, model=model))
        return str(path)

    def open_log(self) -> int:
        """A file descriptor for the log of this run. That of the run before is kept beside it, and no others."""
        with suppress(FileNotFoundError):
            self.log.rename(self.log.with_suffix(".log.1"))
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
