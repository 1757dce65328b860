"""Settings as an operator gives them: proxies, certificates, secrets in files, mistakes and warnings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed448

from sentinel.dev.ports import free_port
from tests.support.relays import Certificates, ForwardProxy, Relay
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until

COMMAND = str(Path(sys.executable).parent / "sentinel")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def proxy(stack: Stack, certificates: Certificates) -> Iterator[ForwardProxy]:
    """A forward proxy over TLS with a password, which alone knows api.test (https) and zion.test (http)."""
    with Relay(stack.simulators.openai_server.port, certificates.server("api.test")) as api:
        hosts = {"api.test:443": api.port, "zion.test:80": stack.simulators.zion_server.port}
        with ForwardProxy(hosts, certificates.server("127.0.0.1"), "Basic dXM6cHJveHktcGFzc3dvcmQ=") as proxy:
            yield proxy


def behind(stack: Stack, proxy: ForwardProxy, certificates: Certificates, **settings: str) -> SentinelProcess:
    """A Sentinel that reaches Zion and the provider only through the proxy."""
    address = f"https://us:proxy-password@127.0.0.1:{proxy.port}"
    all_settings = {
        "OPENAI_API_URL": "https://api.test/v1",
        "ZION_API_URL": "http://zion.test",
        # Zion has another address here than for the others of this stack: that is another installation.
        "REDIS_PREFIX": "behind",
        "SPOOL_DIR": str(stack.folder / "behind"),
        "UPSTREAM_CA_FILE": certificates.ca,
        "ZION_CA_FILE": certificates.ca,
        "HTTPS_PROXY": address,
        "http_proxy": address,
        **settings,
    }
    return stack.sentinel(all_settings)


def test_all_goes_through_proxies(stack: Stack, certificates: Certificates, proxy: ForwardProxy) -> None:
    """Requests are served and billed; TLS in TLS; no log line has the proxy's password."""
    sentinel = behind(stack, proxy, certificates, SENTINEL_DEBUG="true", LOG_LEVEL="error")
    _, token = stack.user("proxied@corp.test")
    for _ in range(3):
        assert post(sentinel, token, chat("[[tokens=3]]")).status == 200
    assert stack.booked(3, "proxied@corp.test")["ai_output_tokens"] == 9
    targets = {head.split(b" ")[1].rpartition(b"/api")[0] or head.split(b" ")[1] for head in proxy.heads}
    assert targets >= {b"api.test:443", b"http://zion.test"}
    # SENTINEL_DEBUG: the lines of requests are there, with one of a probe, whatever LOG_LEVEL says.
    assert len([line for line in sentinel.ended(4) if line["user_id"] == "proxied"]) == 3
    said = (sentinel.folder / "stdout").read_text() + (sentinel.folder / "stderr").read_text()
    assert "proxy-password" not in said
    assert "cHJveHktcGFzc3dvcmQ" not in said


def test_a_proxy_that_refuses_is_no_affair_of_the_client(
    stack: Stack, certificates: Certificates, proxy: ForwardProxy
) -> None:
    """Its 407 is our 502, for http:// and https:// providers alike; nothing is charged."""
    proxy.credentials = "Basic other"
    _, token = stack.user("refused@corp.test")
    near = {"ZION_API_URL": stack.simulators.zion_url, "SENTINEL_DEBUG": "true"}
    near |= {"REDIS_PREFIX": "near", "SPOOL_DIR": str(stack.folder / "near")}
    for url in ("https://api.test/v1", "http://plain.test/v1"):
        sentinel = behind(stack, proxy, certificates, **near, OPENAI_API_URL=url)
        post(sentinel, token, chat()).is_error(502, "upstream_error", "server_error")
        assert sentinel.stop() == 0
        said = (sentinel.folder / "stdout").read_text()
        assert ("the forward proxy answers CONNECT with status 407" in said) == url.startswith("https")
        assert "proxy-password" not in said
    assert stack.used("refused@corp.test")["ai_output_tokens"] == 0


def test_this_machine_needs_no_proxy(stack: Stack) -> None:
    """A corporate shell has proxies for everything; what is on loopback is reached directly all the same."""
    dead = "http://us:pw@127.0.0.1:9"
    sentinel = stack.sentinel(HTTP_PROXY=dead, HTTPS_PROXY=dead, ALL_PROXY="socks5://127.0.0.1:9")
    _, token = stack.user()
    assert post(sentinel, token, chat()).status == 200


def test_secrets_come_from_files(stack: Stack, tmp_path: Path) -> None:
    """As orchestrators mount them."""
    simulators = stack.simulators
    secrets = {
        "ZION_API_KEY": simulators.zion_key,
        "OPENAI_API_KEY": simulators.openai_key,
        "REDIS_URL": stack.store.url,
    }
    sentinel = stack.sentinel(start=False)
    for name, value in secrets.items():
        (tmp_path / name).write_text(f"{value}\n")
        del sentinel.environment[name]
        sentinel.environment[f"{name}_FILE"] = str(tmp_path / name)
    sentinel.start()
    _, token = stack.user()
    assert post(sentinel, token, chat()).status == 200


def doctor(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run("doctor", folder, environment)


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, command],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )


def test_the_doctor_goes_the_same_way(
    stack: Stack, certificates: Certificates, proxy: ForwardProxy, tmp_path: Path
) -> None:
    """Through proxies, with own authorities; what is given in vain is a finding."""
    sentinel = behind(stack, proxy, certificates)
    done = doctor(tmp_path, sentinel.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:1\n")
    done = doctor(tmp_path, sentinel.environment)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert "OPENAI_BASE_URL" in line
    assert "proxy-password" not in done.stdout + done.stderr


def test_the_doctor_lists_mistakes(tmp_path: Path) -> None:
    """The same as serve: names, placeholders, options of Redis."""
    environment = {
        "ZION_API_URL": "https://zion.example.org",
        "ZION_API_KEY": "replace-me",
        "OPENAI_KEY": "sk-hidden",
        "REDIS_URL": "redis://:hidden@h?max_connections=3",
        "HTTPS_PROXY": "socks5://me:hidden@proxy.test",
    }
    done = doctor(tmp_path, environment)
    assert done.returncode == 2
    for name in (*environment, "OPENAI_API_KEY", "max_connections"):
        assert name in done.stderr
    assert "hidden" not in done.stderr


def test_serve_warns_of_strangers_once(stack: Stack) -> None:
    """One line before the start, and it starts."""
    sentinel = stack.sentinel(start=False)
    (sentinel.folder / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:1\nCOMPOSE_PROJECT_NAME=x\n")
    sentinel.start()
    assert (sentinel.folder / "stderr").read_text().splitlines() == [
        "Warning: OPENAI_BASE_URL in .env is not a setting of Sentinel and has no effect."
    ]


def test_a_copy_of_the_example_starts_the_same(tmp_path: Path) -> None:
    """`cp .env.example .env`: `sentinel dev` starts with its stand-ins, as without it; a proxy of the shell or not."""
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SENTINEL_PORT": str(free_port())}
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://x"}
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "dev"], env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: "is ready at" in (tmp_path / "output").read_text() or process.poll() is not None)
        text = (tmp_path / "output").read_text()
        assert process.poll() is None, text
        assert text.count("http://127.0.0.1:") >= 3
    finally:
        process.terminate()
        process.wait(20)


def test_a_key_of_a_rare_kind_is_a_wrong_start(tmp_path: Path) -> None:
    """OpenSSL takes it, the library that talks to Zion does not: told at the start, by serve and doctor."""
    key = ed448.Ed448PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sentinel.test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    (tmp_path / "both.pem").write_bytes(
        builder.sign(key, None).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    environment = {
        "ZION_API_URL": "https://127.0.0.1:9",
        "ZION_API_KEY": "z",
        "OPENAI_API_KEY": "o",
        "ZION_CLIENT_CERT_FILE": str(tmp_path / "both.pem"),
    }
    for command in ("serve", "doctor"):
        done = run(command, tmp_path, environment)
        assert done.returncode == 2
        assert "ZION_CLIENT_CERT_FILE" in done.stderr
        assert "Traceback" not in done.stderr
