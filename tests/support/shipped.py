"""What is shipped, run: Sentinel in the sandbox of its systemd unit or its image, and one of everything sent to it."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import service_unit
from tests.support.client import Answer, events
from tests.support.sandbox import DENIALS, NOT_POSSIBLE, Sandbox
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until

ADMIN_KEY = "admin-key"
DYNAMIC_USER = 61_184
"""The first of the numbers that systemd takes for DynamicUser=."""
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
_HOMES = ["/home", "/root", "/run/user"]
_TEMPORARY = ["/tmp", "/var/tmp"]


@cache
def why_no_sandbox() -> str:
    """Why a sandbox cannot be had on this machine; empty where it can."""
    if os.geteuid():
        return "mounts, users and capabilities of a service can be set up by root alone"
    sandbox = Sandbox(read_only=True, first_process=True, user=DYNAMIC_USER, capabilities=False)
    code = "import sentinel"
    done = subprocess.run(sandbox.command(sys.executable, "-c", code), capture_output=True, text=True, check=False)
    if done.returncode == NOT_POSSIBLE:
        return done.stderr.strip()
    return "" if done.returncode == 0 else f"another user cannot run this checkout: {done.stderr.strip()[-200:]}"


def needs_sandbox() -> None:
    """Skip the test that calls this, with the reason, where no sandbox can be had."""
    if reason := why_no_sandbox():
        pytest.skip(reason)


def unit_sandbox(state: Path, **changes: Any) -> Sandbox:
    """The sandbox of deploy/sentinel.service with this folder as its state directory; changes: other fields."""
    unit = {name: values[-1] for name, values in service_unit.directives().items()}
    calls = service_unit.allowed_system_calls(
        service_unit.directives()["SystemCallFilter"], service_unit.system_call_sets()
    )
    state.mkdir(exist_ok=True)
    number = unit.get("SystemCallErrorNumber")
    fields: dict[str, Any] = {
        "system_calls": sorted(calls),
        "refused_with": getattr(errno, number) if number else 0,
        "denied": [name for name in DENIALS if unit.get(name) == "yes"],
        "families": [_FAMILIES[name] for name in unit["RestrictAddressFamilies"].split()],
        "read_only": unit["ProtectSystem"] == "strict",
        "own": {f"/var/lib/{unit['StateDirectory']}": str(state)},
        "empty": [*(_TEMPORARY if unit["PrivateTmp"] == "yes" else []), *_HOMES],
        "private_devices": unit["PrivateDevices"] == "yes",
        "only_processes_in_proc": unit["ProcSubset"] == "pid",
        "user": DYNAMIC_USER,
        "capabilities": unit["CapabilityBoundingSet"] != "",
        "new_privileges": unit["NoNewPrivileges"] != "yes",
        "open_files": int(unit["LimitNOFILE"]),
        "umask": int(unit["UMask"], 8),
        "folder": unit["WorkingDirectory"],
    }
    return Sandbox(**{**fields, **changes})


def locked_up(stack: Stack, sandbox: Sandbox, *command: str, **settings: str) -> SentinelProcess:
    """A Sentinel in this sandbox, ready. command: another than `sentinel serve`."""
    needs_sandbox()
    sentinel = stack.sentinel(settings, start=False, ADMIN_KEY=ADMIN_KEY)
    sentinel.command = sandbox.command(*(command or sentinel.command))
    return sentinel.start()


def unit_environment() -> dict[str, str]:
    """Environment= of the unit."""
    lines = service_unit.directives()["Environment"]
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def is_served(answer: Answer) -> Answer:
    """The answer, once it is known to be a good one."""
    assert answer.status == 200, (answer.status, answer.body[:300])
    return answer


def serves_everything(stack: Stack, sentinel: SentinelProcess, email: str) -> None:
    """Send one of everything, see that it is answered as ever and booked, and that SIGTERM ends it with status 0."""
    user, token = stack.user(email)
    is_served(post(sentinel, token, chat("[[tokens=3]]")))
    for size in (7_000, 1_000_000):
        is_served(post(sentinel, token, chat("[[tokens=3]]" + "- word " * (size // 7))))
    stream = is_served(post(sentinel, token, chat("[[tokens=3]]", stream=True)))
    assert events(stream.body)[-1] == "[DONE]"
    coded = gzip.compress(json.dumps(chat("[[tokens=3]]" + "word " * 20_000)).encode())
    is_served(post(sentinel, token, coded, Content_Encoding="gzip", Content_Type="application/json"))
    for path in ("/health", "/health/live", "/health/ready"):
        is_served(send(sentinel, "GET", path))
    is_served(send(sentinel, "GET", "/v1/models", token))
    is_served(send(sentinel, "GET", "/sentinel/quota", token))
    refresh = f"/admin/users/{user.external_id}/refresh"
    is_served(send(sentinel, "POST", refresh, ADMIN_KEY))
    assert stack.booked(5, email)["ai_requests"] == 5
    wait_until(lambda: sentinel.metric("sentinel_requests_total") >= 5, "the metrics")
    problems = [line for line in sentinel.log() if line["level"] in ("warning", "error")]
    assert problems == []
    assert sentinel.stop() == 0, (sentinel.folder / "stderr").read_text()
