"""`sentinel governance` as the installed command: a service, and commands beside it, in pipes and files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sentinel.dev.ports import free_port
from tests.support.client import ask
from tests.support.waiting import PATIENCE_SECONDS, wait_until

COMMAND = str(Path(sys.executable).parent / "sentinel")


@dataclass
class House:
    """A folder with a database, and a port for its service."""

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What processes here are told."""
        return {
            "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
            "GOVERNANCE_API_KEY": "governance-test-key",
            "GOVERNANCE_PORT": str(self.port),
        }

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell to its end."""
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
            check=False,
        )

    def start(self) -> subprocess.Popen[bytes]:
        """Start the service; whoever does ends it."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [COMMAND, "governance", "serve"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    @property
    def is_healthy(self) -> bool:
        """Whether the service answers."""
        try:
            return ask("GET", f"http://127.0.0.1:{self.port}/health").status == 200
        except OSError:
            return False

    def me(self, key: str) -> int:
        """The status for whoever has this key."""
        url = f"http://127.0.0.1:{self.port}/api/v1/users/me"
        return ask("GET", url, headers={"Authorization": f"Bearer {key}"}).status


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, free_port())


@pytest.fixture
def service(house: House) -> Iterator[subprocess.Popen[bytes]]:
    """The service, running."""
    process = house.start()
    try:
        wait_until(lambda: house.is_healthy or process.poll() is not None, "the governance answers")
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_SECONDS)


def test_commands_beside_a_service(house: House, service: subprocess.Popen[bytes]) -> None:
    """What a command does holds at once; SIGTERM ends the service in good order, and others are refused its port."""
    made = house.shell(
        "sentinel governance plan set team --requests 5 >&2"
        " && sentinel governance user add ana@corp.test --plan team >&2"
        " && KEY=$(sentinel governance key add ana@corp.test) && echo $KEY"
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert house.me(key) == 200
    assert house.shell("sentinel governance user disable ana@corp.test").returncode == 0
    assert house.me(key) == 403
    second = house.shell("sentinel governance serve")
    assert (second.returncode, "cannot listen on 127.0.0.1 port" in second.stderr) == (2, True)
    service.send_signal(signal.SIGTERM)
    assert service.wait(PATIENCE_SECONDS) == 0
    log = (house.folder / "log").read_text()
    assert '"governance listens"' in log
    assert "Traceback" not in log
    assert key not in log
    assert house.shell("sentinel governance user enable ana@corp.test").returncode == 0


def test_output_that_nobody_takes(house: House) -> None:
    """A reader who has enough, and a full disk: no traceback, and a status that is not 0."""
    lines = "".join(f"user,team,user{number}@corp.test\n" for number in range(5_000))
    (house.folder / "many.csv").write_text(f"kind,plan,email\nplan,team,\n{lines}")
    assert house.shell("sentinel governance import many.csv").returncode == 0
    for line in ("user list", "user list --json", "usage --csv", "export"):
        done = house.shell(f"sentinel governance {line} | head -n 1")
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
        done = house.shell(f"sentinel governance {line} > /dev/full")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    done = house.shell("sentinel governance export | sentinel governance import - --update --json")
    assert done.stdout == '{"plans_added":0,"plans_changed":0,"users_added":0,"users_changed":0}\n'


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_letters_in_any_locale(house: House, locale: str) -> None:
    """An address is shown as it is; bytes that are no text are wrong use."""
    set_up = f"export LC_ALL={locale}; sentinel governance plan set 'größer' >&2"
    done = house.shell(f"{set_up}; sentinel governance user add 'jürgen@exämple.test' --plan größer | head -1")
    assert (done.stdout.split(), done.returncode) == (["email", "jürgen@exämple.test"], 0)
    done = house.shell(f"{set_up}; sentinel governance user show $'\\xff'")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
