"""A real PostgreSQL that ends with this process, unless a test kills it first.

It is the one that the machine has, from version 13: Debian's package `postgresql`, else what PATH finds. No cluster of
the machine's own is touched: data, port and users are made for one server, and go with it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from sentinel.dev.ports import free_port
from tests.support.processes import children_of, is_running, state_of
from tests.support.waiting import PATIENCE_SECONDS, wait_until

_HOST = "127.0.0.1"
_ADMINISTRATOR = "postgres"
_OWNER = "sentinel"
_OLDEST = 13
"""The first that drops a database with connections open."""
_DEBIAN = Path("/usr/lib/postgresql")
_FOLDERS = Path("/tmp")
"""Others may go there, too: the server is not started as root, and root's TMPDIR may be root's alone."""
_STOP_SECONDS = 10.0
_CARELESS = {"fsync": "off", "full_page_writes": "off"}

# The kernel ends a process with the thread that has started it (prctl(2), PR_SET_PDEATHSIG); this one never ends.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres")


class Postgres:
    """One server with databases for tests; each belongs to a user who may do no more than own it.

    fsync: False is faster, for a commit does not wait for the disk. It outlives kill() just the same: the kernel has
        what was written, and it is a power cut that loses it. Tests of what is durable leave it on.
    settings: more of postgresql.conf, by name.
    The locale is C, which every machine has: lower() knows ASCII alone, as SQLite's does.
    """

    def __init__(self, fsync: bool = True, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port(_HOST)
        self._settings = {
            "listen_addresses": _HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            **({} if fsync else _CARELESS),
            **(settings or {}),
        }
        self._password = secrets.token_hex(16)
        self._databases = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that has started all others. Raises RuntimeError if it does not run."""
        return self._running().pid

    @property
    def pids(self) -> list[int]:
        """All processes of the server, that one first."""
        return [self.pid, *children_of(self.pid)]

    @property
    def log(self) -> str:
        """What the server has said, over all starts."""
        return self._log_path.read_text(errors="replace")

    def url(self, database: str) -> str:
        """Where SQLAlchemy finds a database."""
        return f"postgresql+psycopg://{_OWNER}:{self._password}@{_HOST}:{self.port}/{database}"

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a fresh database, which is dropped afterwards; a server that a test has ended runs again then.

        template: the database that it is a copy of; nobody may be connected to that.
        """
        self._databases += 1
        name = f"{_OWNER}_{self._databases}"
        self._administer("CREATE DATABASE {} OWNER {} TEMPLATE {}", name, _OWNER, template)
        try:
            yield self.url(name)
        finally:
            if self._process is None:
                self.start()
            self._administer("DROP DATABASE {} WITH (FORCE)", name)

    def start(self) -> Self:
        """Return when the server answers. Raises RuntimeError if it runs already."""
        if self._process is not None:
            raise RuntimeError("the server runs already")
        is_new = self._folder is None
        if is_new:
            self._make_cluster()
        self._process = _spawner.submit(self._spawn).result()
        wait_until(self._answers, "PostgreSQL")
        if is_new:
            # It takes no parameters; in hexadecimal nothing needs to be quoted.
            self._administer(f"CREATE ROLE {{}} LOGIN PASSWORD '{self._password}'", _OWNER)
        return self

    def stop(self) -> None:
        """End it in good order, whoever is connected (SIGINT, a fast shutdown); after 10 s kill it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_SECONDS)
            self._process = None
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End all of its processes at once (SIGKILL), and return when none is left."""
        process = self._running()
        # Else it would start others in place of those that end, or while we look.
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) in ("", "T", "Z"), "the halt of PostgreSQL")
        pids = self.pids
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
        self._process = None
        wait_until(lambda: not any(map(is_running, pids)), "the end of PostgreSQL")

    def restart(self) -> None:
        """Stop and start with the same port and data; also starts one that was stopped or killed."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it, and leave nothing of it behind."""
        atexit.unregister(self.close)
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _home(self) -> Path:
        assert self._folder is not None, "the server was never started"
        return self._folder

    @property
    def _log_path(self) -> Path:
        return self._home / "log"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _make_cluster(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sentinel-postgres-", dir=_FOLDERS))
        atexit.register(self.close)
        password = self._home / "password"
        password.write_text(self._password)
        if (user := _other_user()) is not None:
            for path in (self._home, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        command = [*self._command("initdb"), "--no-locale", "--encoding=UTF8", "--no-sync", "--auth=scram-sha-256"]
        made = subprocess.run(
            [*command, f"--username={_ADMINISTRATOR}", f"--pwfile={password}"],
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
            check=False,
            **self._surroundings(),
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        # Where there is none, such as on macOS, it outlives a test run that is killed.
        with_us = ["setpriv", "--pdeathsig", "INT", "--"] if shutil.which("setpriv") else []
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                [*with_us, *self._command("postgres"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: it must outlive what still uses it.
                **self._surroundings(),
            )

    def _command(self, program: str) -> list[str]:
        return [str(binaries() / program), "-D", str(self._home / "data")]

    def _surroundings(self) -> dict[str, Any]:
        """Where a program of PostgreSQL is started, and as whom. What PG* of ours may say is not for it."""
        surroundings: dict[str, Any] = {"cwd": self._home, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        if (user := _other_user()) is not None:
            surroundings |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        return surroundings

    def _answers(self) -> bool:
        assert self._running().poll() is None, f"PostgreSQL has ended while it started:\n{self.log[-2000:]}"
        try:
            self._administer("SELECT")
        except psycopg.OperationalError:
            return False
        return True

    def _administer(self, command: str, *names: str) -> None:
        """Run a command; each `{}` in it becomes a name."""
        with psycopg.connect(
            host=_HOST,
            port=self.port,
            user=_ADMINISTRATOR,
            password=self._password,
            dbname="postgres",
            autocommit=True,
            connect_timeout=int(PATIENCE_SECONDS),
        ) as connection:
            connection.execute(sql.SQL(command).format(*map(sql.Identifier, names)))


@cache
def binaries() -> Path:
    """The folder of `initdb` and `postgres`: Debian's newest, else that in PATH. Raises RuntimeError for none."""
    debian = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]), reverse=True)
    in_path = [Path(found)] if (found := shutil.which("initdb")) else []
    for initdb in (*debian, *in_path):
        said = subprocess.check_output([initdb, "--version"], text=True, timeout=PATIENCE_SECONDS)
        version = re.search(r"\d+", said)
        if version is not None and int(version[0]) >= _OLDEST:
            return initdb.parent
    raise RuntimeError(f"these tests need PostgreSQL {_OLDEST} or later: apt-get install postgresql")


def _other_user() -> pwd.struct_passwd | None:
    """As whom the server runs; None is as ourselves. It refuses to run as root."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
