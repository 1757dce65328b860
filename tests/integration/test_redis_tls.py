"""Redis over TLS, with logins and behind Sentinels: what REDIS_URL says is what our connection and redis-py's do."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from sentinel.dev.ports import free_port
from sentinel.dev.store import EmbeddedStore, binary
from tests.support.metering import patient_store
from tests.support.relays import Certificates, Relay
from tests.support.waiting import wait_until

USER, PASSWORD, ENCODED = "app", "p@s/s#?:&", "p%40s%2Fs%23%3F%3A%26"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A store that knows a user with an awkward password, and lets nobody else in."""
    with EmbeddedStore(tmp_path_factory.mktemp("store"), appendonly="no") as store:
        with contextlib.closing(Redis(port=store.port)) as client:
            client.acl_setuser(USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
            client.acl_setuser(USER, enabled=True, channels=["*"])
            client.acl_setuser("default", enabled=False, reset=False)
        yield store


async def works(url: str) -> bool:
    """Whether our own connection comes about, in its database; redis-py must be of the same opinion."""
    store = patient_store(url)
    try:
        await store.start()
        ours = store.available and await store.command("GET", "nothing") is None
        try:
            store.client.set_retry(Retry(NoBackoff(), 0))
            theirs = bool(await store.client.ping())
        except (RedisError, RedisClusterException, OSError):
            theirs = False
        assert ours == theirs
        return ours
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("names", "client", "options", "expected"),
    [
        (["localhost"], False, "?ssl_ca_certs={ca}", True),
        (["localhost"], False, "", False),
        (["other.test"], False, "?ssl_ca_certs={ca}", False),
        (["other.test"], False, "?ssl_ca_certs={ca}&ssl_check_hostname=false", True),
        (["other.test"], False, "?ssl_cert_reqs=none", True),
        (["localhost"], False, "?ssl_check_hostname=false", False),
        (["localhost"], True, "?ssl_ca_certs={ca}", False),
        (["localhost"], True, "?ssl_ca_certs={ca}&ssl_certfile={cert}&ssl_keyfile={key}", True),
    ],
)
async def test_tls_is_as_the_url_says(
    server: EmbeddedStore, certificates: Certificates, names: list[str], client: bool, options: str, expected: bool
) -> None:
    """Authority, name, client certificate: each is obeyed, and without it there is no connection."""
    with Relay(server.port, certificates.server(*names, client=client)) as relay:
        files = {"ca": certificates.ca, "cert": certificates.cert, "key": certificates.key}
        url = f"rediss://{USER}:{ENCODED}@localhost:{relay.port}/1{options.format(**files)}"
        assert await works(url) == expected
        assert (relay.connections > 0) == expected


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        (f"{USER}:{ENCODED}@", True),
        (f"{USER}:wrong@", False),
        ("", False),
    ],
)
async def test_logins_are_decoded(server: EmbeddedStore, login: str, expected: bool) -> None:
    """User and password before the host."""
    assert await works(f"redis://{login}127.0.0.1:{server.port}/2") == expected


async def test_logins_may_be_options(server: EmbeddedStore) -> None:
    """They mean the same."""
    assert await works(f"redis://127.0.0.1:{server.port}?username={USER}&password={ENCODED}&db=2")


async def test_a_socket_has_logins_too(tmp_path: Path) -> None:
    """unix:// with a database."""
    socket = tmp_path / "redis.sock"
    with EmbeddedStore(tmp_path / "store", appendonly="no", extra={"unixsocket": str(socket)}) as store:
        with contextlib.closing(Redis(port=store.port, db=3)) as client:
            client.set("here", "3")
        opened = patient_store(f"unix://{socket}?db=3")
        try:
            await opened.start()
            assert await opened.command("GET", "here") == b"3"
        finally:
            await opened.close()


async def test_a_cluster_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    """Every node is reached over TLS, with the login."""
    with Relay(tls=certificates.server("127.0.0.1")) as relay:
        extra = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "cluster-announce-port": str(relay.port)}
        with EmbeddedStore(tmp_path / "store", appendonly="no", extra=extra) as store:
            relay.target = store.port
            with contextlib.closing(Redis(port=store.port)) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
                await asyncio.to_thread(
                    wait_until, lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the slots"
                )
                client.config_set("requirepass", PASSWORD)
            url = f"rediss+cluster://:{ENCODED}@127.0.0.1:{relay.port}"
            assert await works(f"{url}?ssl_ca_certs={certificates.ca}")
            before = relay.connections
            assert not await works(url)
            assert relay.connections == before


@contextlib.contextmanager
def sentinel(folder: Path, master_port: int) -> Iterator[int]:
    """A Redis Sentinel with a password of its own; its port. It never gives its master up, TLS or not."""
    port = free_port()
    (folder / "sentinel.conf").write_text(
        f'port {port}\nbind 127.0.0.1\nrequirepass "{PASSWORD}"\n'
        f"sentinel monitor main 127.0.0.1 {master_port} 1\nsentinel down-after-milliseconds main 100000000\n"
    )
    command = [binary(), str(folder / "sentinel.conf"), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)

    def answers() -> bool:
        with contextlib.closing(Redis(port=port, password=PASSWORD)) as client, contextlib.suppress(RedisError):
            return bool(client.ping())
        return False

    try:
        wait_until(answers, "Redis Sentinel")
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_behind_sentinels(
    server: EmbeddedStore, certificates: Certificates, tmp_path: Path, *, tls: bool
) -> None:
    """The master's login and the Sentinels' own are two things, both are decoded; TLS goes to both."""
    with contextlib.ExitStack() as exits:
        context = certificates.server("127.0.0.1") if tls else None
        to_master = exits.enter_context(Relay(server.port, context))
        to_sentinel = exits.enter_context(Relay(exits.enter_context(sentinel(tmp_path, to_master.port)), context))
        scheme, ca = ("rediss+sentinel", f"&ssl_ca_certs={certificates.ca}") if tls else ("redis+sentinel", "")
        url = f"{scheme}://{USER}:{ENCODED}@127.0.0.1:{to_sentinel.port}/main/1"
        assert await works(f"{url}?sentinel_password={ENCODED}{ca}")
        assert not await works(f"{url}?sentinel_password=wrong{ca}")
        assert not await works(f"{url}?{ca.removeprefix('&')}")
