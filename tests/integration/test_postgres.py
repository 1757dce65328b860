"""The PostgreSQL of the tests: each has a database of its own, commits outlive a kill, and nothing is left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.support.postgres import Postgres
from tests.support.processes import is_running, told_of
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]


def connect(url: str) -> psycopg.Connection:
    """A connection without SQLAlchemy, which makes new ones in place of those that end."""
    return psycopg.connect(url.replace("+psycopg", ""), connect_timeout=int(PATIENCE_SECONDS))


@pytest.fixture(params=[True, False], ids=["fsync", "no fsync"])
def own(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server that no other test uses."""
    with Postgres(fsync=request.param) as server:
        yield server


def test_each_test_has_a_database_of_its_own(postgres: Postgres, postgres_url: str) -> None:
    """What one has another has not; its user may make tables, and is no administrator; it is gone afterwards."""
    with postgres.database() as other:
        engine = create_engine(postgres_url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE thing (id integer PRIMARY KEY)"))
        engine.dispose()
        with connect(other) as connection:
            assert connection.execute("SELECT to_regclass('thing')").fetchone() == (None,)
            assert connection.execute("SHOW is_superuser").fetchone() == ("off",)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(other)


def test_a_database_is_a_copy_of_its_template(postgres: Postgres, postgres_url: str) -> None:
    """So tables are made once, and copied for each test."""
    with connect(postgres_url) as connection:
        connection.execute("CREATE TABLE thing AS SELECT 7 AS id")
    with postgres.database(template=make_url(postgres_url).database or "") as copy, connect(copy) as connection:
        assert connection.execute("SELECT id FROM thing").fetchone() == (7,)


def test_what_is_committed_outlives_a_kill(own: Postgres) -> None:
    """Whoever is connected notices, nobody can connect; the same URL has it again after a restart, and nothing else."""
    with own.database() as url:
        open_one, busy = connect(url), connect(url)
        open_one.execute("CREATE TABLE thing (id integer)")
        open_one.execute("INSERT INTO thing VALUES (1)")
        open_one.commit()
        open_one.execute("INSERT INTO thing VALUES (2)")
        busy.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
        pids = own.pids
        own.kill()
        assert not any(map(is_running, pids))
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
        open_one.close()
        busy.close()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            connect(url)
        own.restart()
        with connect(url) as connection:
            assert connection.execute("SELECT id FROM thing").fetchall() == [(1,)]


def test_a_database_is_dropped_though_its_server_was_killed() -> None:
    """A test that ends while the server is away leaves a server that runs, for the next one; fsync may be off."""
    with Postgres(fsync=False, settings={"timezone": "Asia/Kathmandu"}) as server:
        with server.database():
            server.kill()
        with server.database() as url, connect(url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
            assert connection.execute("SHOW timezone").fetchone() == ("Asia/Kathmandu",)
            assert connection.execute("SELECT count(*) FROM pg_database WHERE NOT datistemplate").fetchone() == (2,)


def test_nothing_is_left_of_it() -> None:
    """It ends in good order, also with somebody connected, who does not leave."""
    with Postgres(fsync=False) as server:
        client = connect(server.url("postgres"))
        pids, folder = server.pids, folder_of(server.pid)
        server.stop()
        assert "database system is shut down" in server.log
    client.close()
    assert not any(map(is_running, pids))
    assert not folder.exists()


def test_it_ends_with_a_test_run_that_is_killed() -> None:
    """The kernel ends it then, for nobody else can."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing: apt-get install util-linux")
    program = "from tests.support.postgres import Postgres as P; print(P(False).start().pid, flush=True); input()"
    run = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        folder = folder_of(pid)
        run.kill()
    wait_until(lambda: not is_running(pid), "the end of PostgreSQL")
    shutil.rmtree(folder)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """All that `make postgresql` finds on a machine without PostgreSQL."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("mktemp", "ln", "rm"):
        (folder / name).symlink_to(shutil.which(name) or "")
    return folder


def make_postgresql(tools: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run what `make test` does first, where these shell scripts are all of the system's programs."""
    for name, script in programs.items():
        program = tools / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    command = [shutil.which("make") or "", "--silent", "postgresql", "POSTGRESQL="]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("programs", [{"id": "echo 1000", "apt_get": "exit 0"}, {"id": "echo 0"}])
def test_who_must_install_it_is_told_so(tools: Path, programs: dict[str, str]) -> None:
    """Before any test: who is not root, and who has no apt-get."""
    done = make_postgresql(tools, **programs)
    assert done.returncode != 0
    assert "make test needs PostgreSQL 13 or later: apt-get install postgresql" in done.stderr


def test_root_gets_it_without_a_cluster(tools: Path) -> None:
    """Lists of packages are fetched where there are none; Debian's script finds a pg_createcluster that makes none."""
    apt_get = """
        cd "${0%/*}"
        [ "$1" != update ] || { echo >lists; exit; }
        [ -e lists ] || exit 100
        path="${2#DPkg::Path=}"
        "${path%%:*}/pg_createcluster" && echo "${path%%:*}" >first
        echo "$@" >asked
    """
    done = make_postgresql(tools, id="echo 0", apt_get=apt_get)
    assert done.returncode == 0, done.stderr
    assert (tools / "asked").read_text().endswith(" install -y --no-install-recommends postgresql\n")
    assert not Path((tools / "first").read_text().strip()).exists()


def folder_of(pid: int) -> Path:
    """Where a server has its data and its log."""
    command = told_of(pid, "cmdline").split("\0")
    return Path(command[command.index("-D") + 1]).parent
