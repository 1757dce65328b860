"""`sentinel doctor`: one line for each check, a remedy beside what is wrong, and a status for scripts.

About: `doctor.py`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from sentinel.cache import keys
from sentinel.dev.store import EmbeddedStore
from tests.support.cluster import EmbeddedCluster
from tests.support.stack import Stack
from tests.support.strangers import Authority, Behaviour, hang_up, http, says, silence, stranger
from tests.support.surface import chat, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until

COMMAND = str(Path(sys.executable).parent / "sentinel")
SUBJECTS = [
    *("settings", "spool", "redis version", "redis eviction", "redis persistence", "redis commands"),
    *("redis functions", "outbox", "set aside"),
    *("zion", "provider"),
]


@pytest.fixture
def settings(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return {
        "ZION_API_URL": stack.simulators.zion_url,
        "ZION_API_KEY": stack.simulators.zion_key,
        "OPENAI_API_KEY": stack.simulators.openai_key,
        "OPENAI_API_URL": stack.simulators.openai_url,
        "REDIS_URL": stack.store.url,
        "SPOOL_DIR": str(tmp_path / "spool"),
    }


def doctor(folder: Path, settings: dict[str, str], *arguments: str) -> tuple[int, dict[str, str]]:
    """Its status, and its lines by subject."""
    done = subprocess.run(
        [COMMAND, "doctor", *arguments],
        env={"PATH": os.environ["PATH"], **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    for secret in (settings["ZION_API_KEY"], settings["OPENAI_API_KEY"], "redis-password"):
        assert secret not in done.stdout + done.stderr
    lines = {line[6:24].strip(): line for line in done.stdout.splitlines()}
    assert all(line.startswith(("ok    ", "FAIL  ")) for line in lines.values()), done.stdout
    failed = any(line.startswith("FAIL") for line in lines.values())
    assert failed == any(" -> " in line for line in lines.values())
    assert done.returncode == (1 if failed else 0)
    return done.returncode, lines


def test_all_is_well(settings: dict[str, str], tmp_path: Path) -> None:
    """Everything is there: a line for each, status 0."""
    status, lines = doctor(tmp_path, settings)
    assert (status, list(lines)) == (0, SUBJECTS)


def test_what_is_away_is_named_with_a_remedy(settings: dict[str, str], tmp_path: Path) -> None:
    """Nothing is there: still a line for each, with what to do, status 1."""
    (tmp_path / "file").write_text("")
    away = "http://127.0.0.1:9"
    settings |= {"REDIS_URL": "redis://:redis-password@127.0.0.1:9", "SPOOL_DIR": str(tmp_path / "file" / "x")}
    status, lines = doctor(tmp_path, {**settings, "ZION_API_URL": away, "OPENAI_API_URL": away})
    assert status == 1
    assert "SPOOL_DIR" in lines["spool"].partition(" -> ")[2]
    assert "REDIS_URL" in lines["redis"].partition(" -> ")[2]
    assert "ZION_API_URL" in lines["zion"].partition(" -> ")[2]
    assert "OPENAI_API_URL" in lines["provider"].partition(" -> ")[2]


def test_wrong_keys_are_named(settings: dict[str, str], tmp_path: Path) -> None:
    """A key that is not taken is told from a server that is away."""
    status, lines = doctor(tmp_path, {**settings, "ZION_API_KEY": "wrong-zion", "OPENAI_API_KEY": "wrong-openai"})
    assert status == 1
    assert "ZION_API_KEY" in lines["zion"].partition(" -> ")[2]
    assert "OPENAI_API_KEY" in lines["provider"].partition(" -> ")[2]


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that evicts and keeps nothing on disk."""
    extra = {"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}
    with EmbeddedStore(tmp_path / "careless", appendonly="no", extra=extra) as store:
        yield store


def test_a_store_that_forgets_is_named(careless: EmbeddedStore, settings: dict[str, str], tmp_path: Path) -> None:
    """Eviction and missing persistence would lose usage: each has its remedy."""
    status, lines = doctor(tmp_path, {**settings, "REDIS_URL": careless.url})
    assert status == 1
    assert lines["redis version"].startswith("ok")
    assert "noeviction" in lines["redis eviction"].partition(" -> ")[2]
    assert "appendonly yes" in lines["redis persistence"].partition(" -> ")[2]


def test_a_store_without_config_is_not_called_away(stack: Stack, settings: dict[str, str], tmp_path: Path) -> None:
    """Hosted stores forbid CONFIG; INFO tells as much."""
    port, rule = stack.store.port, ["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config"]
    command = b"".join([b"*%d\r\n" % len(rule), *(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in rule)])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(command)
        assert connection.recv(100) == b"+OK\r\n"
    status, lines = doctor(tmp_path, {**settings, "REDIS_URL": f"redis://app:pw@127.0.0.1:{port}"})
    assert (status, list(lines)) == (0, SUBJECTS)
    assert "noeviction" in lines["redis eviction"]


def test_each_node_of_a_cluster_is_looked_at(stack: Stack, settings: dict[str, str], tmp_path: Path) -> None:
    """The same lines as of a single Redis, with how many masters they are about."""
    with EmbeddedCluster(tmp_path / "cluster") as cluster:
        cluster.ask(cluster.nodes[1], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        status, lines = doctor(tmp_path, {**settings, "REDIS_URL": cluster.url})
    assert (status, list(lines)) == (1, SUBJECTS)
    assert "allkeys-lru (on 1 of 3 masters)" in lines["redis eviction"]
    assert "(on 3 of 3 masters)" in lines["redis persistence"]
    assert lines["redis functions"].startswith("ok")


def test_missing_rights_are_named(stack: Stack, settings: dict[str, str], tmp_path: Path) -> None:
    """Which commands our user may not run, and the rule that permits them; no key of anybody."""
    with EmbeddedStore(tmp_path / "strict") as store:
        redis = Redis(port=store.port)
        redis.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-fcall", "-xadd")
        redis.close()
        status, lines = doctor(tmp_path, {**settings, "REDIS_URL": f"redis://app:pw@127.0.0.1:{store.port}"})
    assert status == 1
    assert "does not permit FCALL, XADD -> ACL SETUSER NAME +fcall +xadd" in lines["redis commands"]
    assert lines["redis functions"].startswith("FAIL")
    assert "sentinel:" not in "".join(lines.values())


def test_wrong_settings_are_listed_instead(tmp_path: Path) -> None:
    """Without settings there is nothing to examine: all mistakes, status 2."""
    done = subprocess.run(
        [COMMAND, "doctor"],
        env={},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("  - ") == 3


# --------------------------------------------------------------------------------------------- each cause by its name

PAGE = b"<!doctype html><title>Sign in</title>"
ADDRESSES = {"redis": "REDIS_URL", "zion": "ZION_API_URL", "provider": "OPENAI_API_URL"}
SCHEMES = {"redis": ("redis", "rediss"), "zion": ("http", "https"), "provider": ("http", "https")}

Look = Callable[..., str]


@pytest.fixture(params=["redis", "zion", "provider"])
def look(request: pytest.FixtureRequest, settings: dict[str, str], tmp_path: Path) -> Look:
    """Point one of the three elsewhere, at a port or a host: the line about it. authority: whom to trust."""

    def look(where: int | str, *, tls: bool = False, authority: Path | None = None) -> str:
        address = where if isinstance(where, str) else f"127.0.0.1:{where}"
        changed = {ADDRESSES[request.param]: f"{SCHEMES[request.param][tls]}://{address}"}
        if authority is not None:
            changed["SSL_CERT_FILE"] = str(authority)
        status, lines = doctor(tmp_path, {**settings, **changed})
        assert status == 1
        assert [subject for subject, line in lines.items() if line.startswith("FAIL")] == [request.param]
        remedy = lines[request.param].partition(" -> ")[2]
        assert ADDRESSES[request.param] in remedy or authority is not None or tls
        return lines[request.param]

    return look


def test_a_name_that_nobody_knows(look: Look) -> None:
    """DNS."""
    assert "host name is not known" in look("no-such-host.internal")


def test_a_port_where_nobody_listens(look: Look) -> None:
    """Refused, also by each of several addresses of one name."""
    assert "connection refused" in look(9)
    assert "connection refused" in look("localhost:9")


def test_a_server_that_says_nothing(look: Look) -> None:
    """A time-out."""
    with stranger(silence) as port:
        assert "no answer in time" in look(port)


def test_a_server_that_hangs_up(look: Look) -> None:
    """A port where only TLS is spoken does that to those who do not speak it."""
    with stranger(hang_up) as port:
        assert "closes the connection" in look(port)


def test_a_server_of_another_kind(look: Look) -> None:
    """A greeting that is neither HTTP nor Redis."""
    with stranger(says(b"SSH-2.0-OpenSSH_9.2\r\n")) as port:
        assert "another protocol" in look(port)


def test_a_certificate_of_an_authority_that_is_not_known(look: Look, tmp_path: Path) -> None:
    """An authority of the organisation's own."""
    with stranger(silence, Authority(tmp_path).context()) as port:
        line = look(port, tls=True)
        assert "authority that is not known" in line
        assert re.search("ZION_CA_FILE|UPSTREAM_CA_FILE|ssl_ca_certs", line.partition(" -> ")[2])


def test_a_certificate_that_has_expired(look: Look, tmp_path: Path) -> None:
    """Trusted otherwise."""
    authority = Authority(tmp_path)
    with stranger(silence, authority.context(expired=True)) as port:
        assert "has expired" in look(port, tls=True, authority=authority.file)


def test_a_certificate_for_another_name(look: Look, tmp_path: Path) -> None:
    """Trusted otherwise."""
    authority = Authority(tmp_path)
    with stranger(silence, authority.context("other.test")) as port:
        assert "for another host name" in look(port, tls=True, authority=authority.file)


def test_a_server_without_tls(look: Look) -> None:
    """https:// or rediss:// at a port without TLS."""
    with stranger(http(400)) as port:
        assert "does not speak TLS" in look(port, tls=True)


@pytest.mark.parametrize(
    ("answer", "said", "remedy"),
    [
        (http(401), "does not take our key", "_API_KEY"),
        (http(403, PAGE, "text/html"), "does not take our key", "_API_KEY"),
        (http(404, b'{"message":"Cannot GET /x","statusCode":404}'), "does not know the path", "_API_URL"),
        (http(404, PAGE, "text/html"), "web page", "_API_URL"),
        (http(200, PAGE, "text/html"), "web page", "_API_URL"),
        (http(200, b"OK", "text/plain"), "not with JSON", "_API_URL"),
        (http(302, b""), "elsewhere", "_API_URL"),
        (http(429), "no more requests", "wait"),
        (http(503), "fails (status 503)", "log"),
    ],
    ids=["401", "403", "404", "404-page", "page", "text", "redirect", "429", "503"],
)
@pytest.mark.parametrize("subject", ["zion", "provider"])
def test_an_answer_that_is_none(
    settings: dict[str, str], tmp_path: Path, subject: str, answer: Behaviour, said: str, remedy: str
) -> None:
    """A wrong key, a wrong path, a page for people, a redirect, a server in trouble: told apart by name."""
    with stranger(answer) as port:
        status, lines = doctor(tmp_path, {**settings, ADDRESSES[subject]: f"http://127.0.0.1:{port}"})
    assert status == 1
    found, _, what = lines[subject].partition(" -> ")
    assert said in found
    assert remedy in what


@pytest.mark.parametrize("subject", ["zion", "provider"])
def test_a_proxy_on_the_way_is_named(settings: dict[str, str], tmp_path: Path, subject: str) -> None:
    """One that is away, and one that lets nobody through."""
    way = {ADDRESSES[subject]: "https://far.internal"}
    _, lines = doctor(tmp_path, {**settings, **way, "HTTPS_PROXY": "http://127.0.0.1:9"})
    assert "https://far.internal through the proxy http://127.0.0.1:9: nobody listens there" in lines[subject]
    with stranger(http(407)) as port:
        _, lines = doctor(tmp_path, {**settings, **way, "HTTPS_PROXY": f"http://127.0.0.1:{port}"})
    assert "the proxy does not let us through" in lines[subject]
    assert "password" in lines[subject].partition(" -> ")[2]


def test_json_of_others_is_not_taken_for_zion(settings: dict[str, str], tmp_path: Path) -> None:
    """Somebody's API answers there, but no Zion."""
    with stranger(http(200, b'{"object":"list","data":[]}')) as port:
        _, lines = doctor(tmp_path, {**settings, "ZION_API_URL": f"http://127.0.0.1:{port}"})
    assert "not as Zion does" in lines["zion"]


@pytest.mark.parametrize(
    ("reply", "said", "remedy"),
    [
        (b"-NOAUTH Authentication required.\r\n", "wants a password", "REDIS_URL"),
        (
            b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            "does not take our password",
            "REDIS_URL",
        ),
        (b"-DENIED Redis is running in protected mode\r\n", "protected mode", "password"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "still loading", "wait"),
        (b"-ERR something new about <a key>\r\n", "refuses a command (ERR)", "see"),
    ],
    ids=["NOAUTH", "WRONGPASS", "DENIED", "LOADING", "ERR"],
)
def test_a_redis_that_refuses(settings: dict[str, str], tmp_path: Path, reply: bytes, said: str, remedy: str) -> None:
    """What Redis says, in words, with what to do."""
    with stranger(says(reply)) as port:
        status, lines = doctor(tmp_path, {**settings, "REDIS_URL": f"redis://127.0.0.1:{port}"})
    assert status == 1
    found, _, what = lines["redis"].partition(" -> ")
    assert said in found
    assert remedy in what


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://app:redis-password@127.0.0.1:{port}", "does not take our password"),
        ("redis://127.0.0.1:{port}/99", "no database of that number"),
        ("unix:///nowhere/redis.sock", "no such socket"),
    ],
)
def test_a_real_redis_that_refuses(stack: Stack, settings: dict[str, str], tmp_path: Path, url: str, said: str) -> None:
    """The same from a real one."""
    _, lines = doctor(tmp_path, {**settings, "REDIS_URL": url.format(port=stack.store.port)})
    assert said in lines["redis"]


@pytest.fixture
def used() -> Iterator[Stack]:
    """A stack of whose Redis a Sentinel makes use."""
    with Stack() as stack:
        yield stack


def test_what_to_run_next_can_be_pasted(used: Stack, settings: dict[str, str], tmp_path: Path) -> None:
    """Where there are dead letters, the commands that it names run as they are printed."""
    stack = used
    settings |= {"ZION_API_URL": stack.simulators.zion_url, "REDIS_URL": stack.store.url}
    stack.simulators.zion.refused_emails.add("refused@corp.test")
    sentinel = stack.sentinel()
    _, token = stack.user("refused@corp.test")
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200

    def letters() -> str | None:
        _, lines = doctor(tmp_path, settings)
        return lines["outbox"] if lines["outbox"].startswith("FAIL") else None

    line = wait_until(letters, "a dead letter")
    stack.simulators.zion.refused_emails.clear()
    look, replay = re.findall(r"`(.*?)`", line)
    environment = {"PATH": os.environ["PATH"], **settings}
    run = partial(
        subprocess.run, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "1 dead letters" in run(look).stdout
    assert "1 dead letters sent again, 0 left" in run(replay).stdout


def test_dead_letters_are_listed_sent_again_and_deleted(stack: Stack, settings: dict[str, str], tmp_path: Path) -> None:
    """Each by its name, or all; one that is not there is said to be unknown."""
    with Redis.from_url(stack.store.url) as client:
        for number in range(3):
            who = json.dumps(["", f"gone{number}", f"gone{number}@corp.test", "gpt-4o-mini"])
            letter = {"who": who, "sum": struct.pack("<5d", 1, 5, 7, 0, 1_770_000_000_000), "reason": "user unknown"}
            client.xadd(keys.dead_letters(keys.account_keys(f"gone{number}").partition), letter)

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [COMMAND, *arguments],
            env={"PATH": os.environ["PATH"], **settings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    status, lines = run("doctor", "--dead-letters")
    assert (status, lines[-1]) == (1, "3 dead letters")
    first = next(line.split()[0] for line in lines if "user=gone0" in line)
    assert run("dead-letters", "delete", first, "7/1-1") == (
        1,
        ["there is no dead letter 7/1-1", "1 dead letters deleted, 2 left"],
    )
    assert run("dead-letters", "delete")[0] == 2
    assert run("dead-letters", "delete", "--all") == (0, ["2 dead letters deleted, 0 left"])
    assert run("doctor", "--dead-letters") == (0, ["0 dead letters"])
