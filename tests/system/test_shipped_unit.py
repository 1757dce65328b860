"""deploy/sentinel.service, run: its system call filter, its mounts and its user around the real command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import service_unit, shipped
from tests.support.stack import Stack
from tests.support.surface import chat, post
from tests.support.waiting import wait_until

RESOURCES = sorted(service_unit.system_call_sets()["@resources"])

WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    # Whatever is refused shall not even be tried: an older systemd, or a line lost, and a refusal is a kill.
    "a refused call kills": {"refused_with": 0},
    # Other sandboxes refuse what this unit allows.
    "no priorities": {"refused_calls": RESOURCES},
    "no shared memory": {"shared_memory": False},
}


@pytest.mark.parametrize(("way", "workers"), [*((way, "1") for way in WAYS), ("as it is", "2")])
def test_one_of_everything_is_served_under_the_unit(stack: Stack, tmp_path: Path, way: str, workers: str) -> None:
    """Small and large prompts, streams, coded bodies and all that operators ask are answered, and SIGTERM ends it."""
    sandbox = shipped.unit_sandbox(tmp_path / "state", **WAYS[way])
    environment = {**shipped.unit_environment(), "SENTINEL_WORKERS": workers}
    sentinel = shipped.locked_up(stack, sandbox, **environment)
    shipped.serves_everything(stack, sentinel, f"{way.replace(' ', '-')}-{workers}@corp.test")


def test_usage_is_kept_in_the_state_directory_of_the_unit(tmp_path: Path) -> None:
    """While Redis is away it is written there, for nobody else to read, and is told when Redis is back."""
    with Stack(REDIS_DOWN="local") as stack:
        state = tmp_path / "state"
        sentinel = shipped.locked_up(stack, shipped.unit_sandbox(state), **shipped.unit_environment())
        _, token = stack.user()
        assert post(sentinel, token, chat("[[tokens=3]]")).status == 200
        stack.store.kill()
        wait_until(lambda: post(sentinel, token, chat("[[tokens=3]]")).status == 200)
        (spooled,) = wait_until(lambda: list(state.glob("*.jsonl")))
        assert spooled.stat().st_mode & 0o777 == 0o600
        stack.store.start()
        assert stack.booked(2)["ai_output_tokens"] == 6
        assert sentinel.stop() == 0


SIMULATED = {
    "CapabilityBoundingSet",
    "DynamicUser",
    "Environment",
    "LimitNOFILE",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateTmp",
    "ProcSubset",
    "ProtectClock",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectProc",
    "ProtectSystem",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "StateDirectory",
    "StateDirectoryMode",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "UMask",
    "WorkingDirectory",
}
WITHIN_OTHERS = {
    "ProtectControlGroups": "read-only, as all is",
    "ProtectKernelTunables": "not in /proc, and read-only in /sys",
    "SystemCallArchitectures": "libseccomp's filters kill what is not native",
}
FOR_SYSTEMD_ALONE = {"EnvironmentFile", "ExecStart", "Restart", "RestartSec", "TimeoutStopSec", "Type"}


def test_every_line_of_the_unit_is_run() -> None:
    """A directive that nobody tries is a directive that nobody knows to work."""
    assert set(service_unit.directives()) == SIMULATED | set(WITHIN_OTHERS) | FOR_SYSTEMD_ALONE


def test_a_refused_system_call_is_an_error_and_no_kill() -> None:
    """Without SystemCallErrorNumber the kernel kills the process, with all its streams."""
    assert service_unit.directives()["SystemCallErrorNumber"] == ["EPERM"]


def test_stored_sets_have_all_that_the_unit_names() -> None:
    """Without systemd the filter is made from what is stored, and lets the same through as to what matters here."""
    sets = service_unit.system_call_sets(service_unit.STORED_SETS.read_text())
    filters = service_unit.directives()["SystemCallFilter"]
    allowed = service_unit.allowed_system_calls(filters, sets)
    assert allowed >= {"epoll_pwait", "flock", "futex", "setpriority", "sched_setattr", "prlimit64", "socket"}
    assert not allowed & {"chroot", "mount", "reboot", "setuid", "sched_setscheduler", "setrlimit", "ptrace"}
    assert allowed ^ service_unit.allowed_system_calls(filters, service_unit.system_call_sets()) <= NEWER


NEWER = {"futex_wait", "futex_wake", "futex_waitv", "futex_requeue", "map_shadow_stack", "cachestat", "fchmodat2"}
"""System calls that later versions of systemd have put into these sets."""
