"""The built-in governance in a thread of `sentinel dev`, with a plan, a user and a key to play with."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from sentinel.clock import now_ms
from sentinel.config import ConfigError
from sentinel.governance.service import app, directory
from sentinel.governance.service.api_keys import NewKey, new_key
from sentinel.governance.service.database import Database
from sentinel.governance.service.directory import Duplicate, NotFound
from sentinel.governance_settings import GovernanceSettings

DEMO_PLAN = "demo"
DEMO_EMAIL = "demo@example.com"
DEMO_EXTERNAL_ID = "demo"
DEMO_LIMITS = {"requests": 100_000, "input_tokens": 50_000_000, "output_tokens": 10_000_000}
_START_SECONDS = 15.0


@dataclass(frozen=True)
class Address:
    """Where the governance will listen: the socket is bound, so that the proxy's settings can name it before."""

    listener: socket.socket

    @property
    def url(self) -> str:
        """What goes into ZION_API_URL."""
        host, port = self.listener.getsockname()[:2]
        return f"http://{host}:{port}"


def bind(settings: GovernanceSettings, *, must_have: bool) -> Address:
    """An address of this machine; another port than GOVERNANCE_PORT if that is taken, unless it must be had.

    Raises ConfigError.
    """
    for port in (settings.governance_port, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            # Before it listens another process may bind it, too (socket(7), SO_REUSEADDR), and take it away.
            listener.listen()
        except OSError as error:
            listener.close()
            if must_have:
                raise ConfigError([f"GOVERNANCE_PORT: cannot listen on port {port}: {error.strerror}"]) from error
        else:
            return Address(listener)
    raise AssertionError("some port is always free")


class _Server(uvicorn.Server):
    """uvicorn's server in a thread. ready: it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.contextmanager
def running(settings: GovernanceSettings, address: Address, token: str) -> Iterator[None]:
    """Run the service until the end of the block. token: the demo user's. Raises ConfigError."""
    service = app.build(settings)
    set_up_demo(service.database, token)
    server = _Server(uvicorn.Config(app.application(service), log_config=None, server_header=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.listener]}, name="governance", daemon=True)
    thread.start()
    try:
        if not server.ready.wait(_START_SECONDS):
            raise ConfigError(["the built-in governance does not start; the log has more"])
        yield
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
        address.listener.close()


def set_up_demo(database: Database, token: str) -> None:
    """Make the demo plan, the user, and their key, as far as they are not there; what was changed stays so."""
    with database.writing() as connection:
        now = now_ms()
        try:
            directory.plan(connection, DEMO_PLAN)
        except NotFound:
            directory.set_plan(connection, DEMO_PLAN, {**DEMO_LIMITS, "period": "monthly"}, now)
        try:
            directory.user(connection, DEMO_EMAIL)
        except NotFound:
            directory.add_user(connection, DEMO_EMAIL, DEMO_PLAN, now, external_id=DEMO_EXTERNAL_ID, name="Demo User")
        with contextlib.suppress(Duplicate):
            directory.add_key(connection, DEMO_EMAIL, NewKey(new_key().id, token), now, name="sentinel dev")
