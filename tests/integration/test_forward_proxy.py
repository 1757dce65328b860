"""Forward proxies and certificates towards the provider and Zion, over real sockets.

About: `proxy/transport/dialer.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from sentinel.dev.simulators import Simulators, start_simulators
from sentinel.egress import DIRECT, Egress, TlsFiles, parse_proxy
from sentinel.error import ZionUnavailable
from sentinel.governance.port import Outcome
from sentinel.proxy.transport.answer import ConnectFailed, HttpError
from sentinel.proxy.transport.http1 import Http1Client
from sentinel.zion.client import ZionClient
from tests.support.relays import Certificates, ForwardProxy, Relay

CREDENTIALS = "Basic dXM6cEBzcw=="  # us:p@ss


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    with start_simulators() as simulators:
        yield simulators


@pytest.fixture
def world(simulators: Simulators, certificates: Certificates) -> Iterator[dict[str, int]]:
    """Where names lead that only a proxy knows: the simulators, plain and over TLS, one that wants a certificate."""
    plain = {"api.test": simulators.openai_server.port, "zion.test": simulators.zion_server.port}
    hosts = {f"{name}:80": port for name, port in plain.items()}
    with contextlib.ExitStack() as exits:
        for name, port in plain.items():
            hosts[f"{name}:443"] = exits.enter_context(Relay(port, certificates.server(name))).port
            strict = exits.enter_context(Relay(port, certificates.server(name, client=True)))
            hosts[f"{name}:8443"] = strict.port
        hosts["other.test:443"] = hosts["api.test:443"]
        yield hosts


async def models(simulators: Simulators, url: str, egress: Egress, times: int = 1) -> int:
    """The status of GET /models at this provider, asked so often over one client. Raises HttpError."""
    key = f"authorization: Bearer {simulators.openai_key}\r\n".encode()
    client = Http1Client(url, key, connect_seconds=2, idle_seconds=5, keep_seconds=4, egress=egress)
    try:
        for _ in range(times):
            answer = await client.send(b"GET", b"/models", b"", b"")
            assert b'"gpt-4o' in await answer.read_all(1 << 20) or answer.status != 200
        return answer.status
    finally:
        await client.close()


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_https_goes_through_a_tunnel(
    simulators: Simulators, certificates: Certificates, world: dict[str, int], *, proxy_tls: bool
) -> None:
    """CONNECT with the password, one tunnel for all requests on it; the proxy resolves the name and sees no key."""
    tls = certificates.server("127.0.0.1") if proxy_tls else None
    with ForwardProxy(world, tls, CREDENTIALS) as proxy:
        scheme = "https" if proxy_tls else "http"
        through = parse_proxy(f"{scheme}://us:p%40ss@127.0.0.1:{proxy.port}")
        egress = Egress(through, TlsFiles(certificates.ca))
        assert await models(simulators, "https://api.test/v1", egress, times=3) == 200
        (head,) = proxy.heads
        lines = [
            b"CONNECT api.test:443 HTTP/1.1",
            b"host: api.test:443",
            f"proxy-authorization: {CREDENTIALS}".encode(),
        ]
        assert head.split(b"\r\n") == [*lines, b"", b""]


async def test_http_goes_in_absolute_form(simulators: Simulators, world: dict[str, int]) -> None:
    """The whole URL in the request line, the password in each request, connections kept."""
    with ForwardProxy(world, credentials=CREDENTIALS) as proxy:
        through = parse_proxy(f"http://us:p%40ss@127.0.0.1:{proxy.port}")
        assert await models(simulators, "http://api.test/v1", Egress(through), times=3) == 200
        (head,) = proxy.heads
        assert head.startswith(b"GET http://api.test/v1/models HTTP/1.1\r\nhost: api.test\r\n")


@pytest.mark.parametrize(
    ("host", "files", "served"),
    [
        ("api.test", ("ca",), True),
        ("api.test", (), False),
        ("other.test", ("ca",), False),
        ("api.test:8443", ("ca",), False),
        ("api.test:8443", ("ca", "cert", "key"), True),
    ],
)
@pytest.mark.parametrize("asked", ["provider", "zion"])
async def test_certificates_are_checked_and_shown(
    simulators: Simulators,
    certificates: Certificates,
    world: dict[str, int],
    asked: str,
    host: str,
    files: tuple[str, ...],
    served: bool,
) -> None:
    """An own authority, the right name, a client certificate: each is needed, and enough."""
    tls = TlsFiles(*(getattr(certificates, name) for name in files))
    with ForwardProxy(world) as proxy:
        egress = Egress(parse_proxy(f"127.0.0.1:{proxy.port}"), tls)
        if asked == "zion":
            assert await zion_answers(simulators, f"https://{host.replace('api', 'zion')}", egress) == served
        elif served:
            assert await models(simulators, f"https://{host}/v1", egress) == 200
        else:
            with pytest.raises(HttpError):
                await models(simulators, f"https://{host}/v1", egress)
        assert proxy.connections == 1


async def zion_answers(simulators: Simulators, url: str, egress: Egress) -> bool:
    client = ZionClient(url, simulators.zion_key, egress)
    try:
        return (await client.identify(simulators.demo_token)).id == "demo"
    except ZionUnavailable:
        return False
    finally:
        await client.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_zion_is_reached_through_a_proxy(
    simulators: Simulators, certificates: Certificates, world: dict[str, int], scheme: str
) -> None:
    """With the password, which the proxy wants to see."""
    with ForwardProxy(world, credentials=CREDENTIALS) as proxy:
        tls = TlsFiles(certificates.ca) if scheme == "https" else TlsFiles()
        through = Egress(parse_proxy(f"http://us:p%40ss@127.0.0.1:{proxy.port}"), tls)
        assert await zion_answers(simulators, f"{scheme}://zion.test", through)
        wrong = Egress(parse_proxy(f"http://us:wrong@127.0.0.1:{proxy.port}"), tls)
        assert not await zion_answers(simulators, f"{scheme}://zion.test", wrong)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_usage_that_a_proxy_stops_is_no_doubt(
    simulators: Simulators, certificates: Certificates, world: dict[str, int], scheme: str
) -> None:
    """Zion cannot have taken it: it waits, and is neither looked into nor given up."""
    with ForwardProxy(world, credentials=CREDENTIALS) as proxy:
        egress = Egress(parse_proxy(f"http://us:wrong@127.0.0.1:{proxy.port}"), TlsFiles(certificates.ca))
        client = ZionClient(f"{scheme}://zion.test", simulators.zion_key, egress)
        try:
            answer = await client.report([], "key")
        finally:
            await client.close()
    assert answer.outcome is Outcome.LATER


async def test_zion_takes_no_proxy_that_we_do_not_give(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read in config.py alone, which knows what NO_PROXY and this machine mean."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert await zion_answers(simulators, simulators.zion_url, DIRECT)


REFUSALS = {
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
    "502": b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>",
    "no HTTP": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "closes": b"",
    "an endless head": b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000,
    "more than a head": b"HTTP/1.1 200 OK\r\n\r\nhello",
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_proxy_that_refuses_is_named(simulators: Simulators, world: dict[str, int], refusal: str) -> None:
    """Nothing was sent, the reason says so; the password is not in it."""
    with ForwardProxy(world) as proxy:
        proxy.refusal = REFUSALS[refusal]
        egress = Egress(parse_proxy(f"http://us:p%40ss@127.0.0.1:{proxy.port}"))
        with pytest.raises(ConnectFailed, match="the forward proxy") as caught:
            await models(simulators, "https://api.test/v1", egress)
    if refusal.isdecimal():
        assert f"status {refusal}" in str(caught.value)
    assert "p@ss" not in str(caught.value)


async def test_a_proxy_that_says_nothing_is_given_up(simulators: Simulators) -> None:
    """Within the time to connect; so is one that is not there."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for proxy in (port, 9):
        client = Http1Client(
            "https://api.test",
            connect_seconds=0.2,
            idle_seconds=5,
            keep_seconds=4,
            egress=Egress(parse_proxy(f"http://127.0.0.1:{proxy}")),
        )
        with pytest.raises(ConnectFailed):
            await client.send(b"GET", b"/", b"", b"")
        await client.close()
    server.close()


async def test_the_systems_authorities_can_be_replaced(
    simulators: Simulators, certificates: Certificates, world: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE, as OpenSSL has it, towards the provider and Zion alike."""
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    with ForwardProxy(world) as proxy:
        egress = Egress(parse_proxy(f"127.0.0.1:{proxy.port}"))
        assert await models(simulators, "https://api.test/v1", egress) == 200
        assert await zion_answers(simulators, "https://zion.test", egress)
