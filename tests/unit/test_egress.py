"""Which proxy a URL is reached through, and files of TLS."""

from __future__ import annotations

import ssl
import weakref
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from sentinel.egress import ForwardProxy, TlsFiles, authorities_mistake, bypasses_proxy, client_mistake, parse_proxy


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://p:3128", ForwardProxy("p", 3128)),
        ("p:3128", ForwardProxy("p", 3128)),
        ("http://p/", ForwardProxy("p", 80)),
        ("HTTPS://P", ForwardProxy("p", 443, tls=True)),
        ("http://[::1]:1", ForwardProxy("::1", 1)),
        ("http://us%40er:p%3Aw@p:1", ForwardProxy("p", 1, authorization="Basic dXNAZXI6cDp3")),
        ("u:@p", ForwardProxy("p", 80, authorization="Basic dTo=")),
    ],
)
def test_a_proxy_is_read(text: str, proxy: ForwardProxy) -> None:
    """With or without a scheme; user and password are percent-encoded."""
    assert parse_proxy(text) == proxy
    assert "Basic" not in repr(proxy)
    assert parse_proxy(proxy.url) == ForwardProxy(proxy.host, proxy.port, proxy.tls)


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://p", "http://p:0", "http://p:x", "http://p/path", "http://p?q", "socks5://p", "http://a b"],
)
def test_what_is_no_proxy_is_refused(text: str) -> None:
    """SOCKS by name."""
    with pytest.raises(ValueError, match="must be http://HOST:PORT") as caught:
        parse_proxy(text)
    assert ("SOCKS" in str(caught.value)) == text.startswith("socks")


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("https://api.openai.com/v1", "", False),
        ("http://localhost:9001", "", True),
        ("http://LOCALHOST", "", True),
        ("http://a.localhost", "", True),
        ("http://127.9.9.9:1", "", True),
        ("https://[::1]:1/", "", True),
        ("https://localhost.corp", "", False),
        ("https://api.openai.com", "*", True),
        ("https://api.openai.com", "x, *", True),
        ("https://api.openai.com", "openai.com", True),
        ("https://api.openai.com", ".openai.com", True),
        ("https://openai.com", ".openai.com", True),
        ("https://api.openai.com", "*.openai.com", True),
        ("https://API.OpenAI.com.", "api.openai.COM", True),
        ("https://notopenai.com", "openai.com", False),
        ("https://api.openai.com", "api.openai.com:443", True),
        ("https://api.openai.com", "api.openai.com:8443", False),
        ("http://zion.corp:8090", "a zion.corp:8090,b", True),
        ("http://zion.corp", "zion.corp:80", True),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://10.1.2.3", "10.1.2.3", True),
        ("http://10.1.2.3:81", "10.1.2.3:80", False),
        ("http://10.1.2.3:80", "10.1.2.3:80", True),
        ("http://[fd00::1]", "fd00::/8", True),
        ("http://[fd00::1]:80", "[fd00::1]:80", True),
        ("http://[fd00::1]", "[fd00::1]", True),
        ("http://[fd00::1]", "fd00::2", False),
        ("http://zion.corp", ", ,", False),
    ],
)
def test_no_proxy_is_obeyed(url: str, no_proxy: str, *, direct: bool) -> None:
    """Hosts and their subdomains, ports, addresses, networks; this machine always."""
    assert bypasses_proxy(url, no_proxy) == direct


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem; cert.pem and key.pem; both.pem; other.pem, another's key; locked.pem, a key with a password; text."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    mine, others = authority.issue_cert("client.test"), authority.issue_cert("other.test")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    mine.private_key_pem.write_to_path(folder / "key.pem")
    mine.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    others.private_key_pem.write_to_path(folder / "other.pem")
    key = serialization.load_pem_private_key(mine.private_key_pem.bytes(), None)
    (folder / "locked.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    (folder / "text").write_text("no PEM")
    (folder / "trusted.pem").write_text((folder / "ca.pem").read_text().replace("CERTIFICATE", "TRUSTED CERTIFICATE"))
    return folder


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        (None, None, None),
        ("cert.pem", "key.pem", None),
        ("both.pem", None, None),
        (None, "key.pem", "has a key, but no certificate"),
        ("cert.pem", None, "must be a certificate and its own key"),
        ("cert.pem", "other.pem", "must be a certificate and its own key"),
        ("cert.pem", "locked.pem", "without a password"),
        ("text", "key.pem", "must be a certificate and its own key"),
        ("cert.pem", "none.pem", "none.pem cannot be read: No such file or directory"),
        (".", None, "cannot be read: Is a directory"),
        ("a\0b", None, "cannot be read: no such file"),
    ],
)
def test_a_clients_certificate_is_checked(files: Path, cert: str | None, key: str | None, reason: str | None) -> None:
    """Both are there, readable, PEM, and belong together."""
    tls = TlsFiles(cert_file=cert and str(files / cert), key_file=key and str(files / key))
    mistake = client_mistake(tls)
    assert (mistake is None) == (reason is None)
    assert (reason or "") in (mistake or "")
    if reason is None:
        assert tls.context().verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("name", "good"), [("ca.pem", True), ("text", False), ("trusted.pem", False), ("none", False), (".", False)]
)
def test_authorities_are_checked(files: Path, name: str, *, good: bool) -> None:
    """Readable, and certificates."""
    assert (authorities_mistake(str(files / name)) is None) == good


def test_authorities_add_to_the_systems(files: Path) -> None:
    """A provider with a public certificate stays reachable with a CA file of one's own."""
    plain, more = TlsFiles().context(), TlsFiles(str(files / "ca.pem")).context()
    assert len(more.get_ca_certs()) == len(plain.get_ca_certs()) + 1
    bundle = files / "bundle.pem"
    bundle.write_bytes(b"# comment\n" + (files / "ca.pem").read_bytes() * 2)
    assert len(TlsFiles(str(bundle)).authorities()) == 2


def test_an_identity_is_a_certificate_and_its_key(tmp_path: Path) -> None:
    """In one text; a file that has both is enough, and without one there is no identity."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text("the certificate")
    key.write_text("the key")
    assert TlsFiles(cert_file=str(cert), key_file=str(key)).identity() == b"the certificate\nthe key"
    assert TlsFiles(cert_file=str(cert)).identity() == b"the certificate"
    assert TlsFiles().identity() is None


def test_who_has_the_same_files_has_one_context(files: Path) -> None:
    """As long as they are the same files, and somebody has it."""
    own = files / "own.pem"
    own.write_bytes((files / "ca.pem").read_bytes())
    first = TlsFiles(str(own)).context()
    assert TlsFiles(str(own)).context() is first
    assert TlsFiles(str(files / "ca.pem")).context() is not first
    assert TlsFiles(str(own), verify=False).context() is not first
    own.write_bytes((files / "ca.pem").read_bytes() + b"\n")
    assert TlsFiles(str(own)).context() is not first
    gone = weakref.ref(first)
    del first
    assert gone() is None
