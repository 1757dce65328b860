"""How hosts that are not ours are reached: through which forward proxy, with which certificates.

Which requests go through a proxy is decided as curl decides it, with one rule of Go's net/http added: a loopback target
is never reached through a proxy, for which it would be another machine.
Source: https://curl.se/libcurl/c/libcurl-env.html, https://pkg.go.dev/net/http#ProxyFromEnvironment.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from weakref import WeakValueDictionary

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\s*", re.DOTALL)
_PROXY_FORM = "must be http://HOST:PORT or https://HOST:PORT, perhaps with USER:PASSWORD@ before the host"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for TLS. Authorities come in addition to the system's, which SSL_CERT_FILE and SSL_CERT_DIR replace.

    cert_file may hold its key, too; then there is no key_file. verify: whether the other side must prove who it is.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """All this for Python's TLS, the same for all who ask as long as the files are. Not to be changed.

        Reads the files. Raises OSError, of which ssl.SSLError is one.
        """
        system = ssl.get_default_verify_paths()
        files = (system.cafile, system.capath, self.ca_file, self.cert_file, self.key_file)
        key = (self, *map(_version, files))
        context = _contexts.get(key)
        if context is None:
            context = _contexts[key] = self._made()
        return context

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca_file:
            context.load_verify_locations(self.ca_file)
        if self.cert_file:
            # A key with a password is refused at the start; without this OpenSSL would ask for it at the terminal.
            context.load_cert_chain(self.cert_file, self.key_file, lambda: "")
        context.check_hostname = self.verify and self.check_hostname
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        return context

    def authorities(self) -> list[bytes]:
        """Each certificate of `ca_file`. Raises OSError."""
        return _CERTIFICATE.findall(Path(self.ca_file).read_bytes()) if self.ca_file else []

    def identity(self) -> bytes | None:
        """The client's certificate and key in one. Raises OSError."""
        if not self.cert_file:
            return None
        return b"\n".join(Path(name).read_bytes() for name in (self.cert_file, self.key_file) if name)


_contexts: WeakValueDictionary[tuple[object, ...], ssl.SSLContext] = WeakValueDictionary()
"""Those that somebody has. All that the system trusts is in each: to make one takes 50 ms, to free one 1 ms."""


def _version(path: str | None) -> tuple[int, int, int] | None:
    """What tells a file from what stood there before; None for none."""
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            found = Path(path).stat()
            return found.st_ino, found.st_size, found.st_mtime_ns
    return None


_NO_FILES = TlsFiles()


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """A proxy that carries our requests. tls: whether it is spoken to over TLS itself.

    authorization: the value of Proxy-Authorization, None without a password.
    """

    host: str
    port: int
    tls: bool = False
    authorization: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its address without a password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Egress:
    """How one host is reached."""

    proxy: ForwardProxy | None = None
    tls: TlsFiles = _NO_FILES


DIRECT = Egress()
"""Without a proxy, with what the system trusts."""


def parse_proxy(text: str) -> ForwardProxy:
    """Read the address of a proxy; without a scheme it is http://. Raises ValueError, which does not repeat it."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise ValueError(_PROXY_FORM) from None
    if parts.scheme.startswith("socks"):
        raise ValueError(f"{_PROXY_FORM}; SOCKS proxies are not supported")
    bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not _is_host(parts) or not bare:
        raise ValueError(_PROXY_FORM)
    tls = parts.scheme == "https"
    return ForwardProxy(parts.hostname or "", port or (443 if tls else 80), tls, _basic(parts))


def _is_host(parts: SplitResult) -> bool:
    return bool(re.fullmatch(r"[\x21-\x7e]+", parts.hostname or "")) and parts.port != 0


def _basic(parts: SplitResult) -> str | None:
    if parts.username is None and parts.password is None:
        return None
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def bypasses_proxy(url: str, no_proxy: str) -> bool:
    """Whether this URL is reached directly: it is on this machine, or named by `no_proxy`.

    no_proxy: parted by commas or spaces: `*`, a host (its subdomains, too; a dot before it changes nothing), HOST:PORT,
    an IP address, or a network such as 10.0.0.0/8.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host):
        return True
    address = _ip_address(host)
    names = re.split(r"[,\s]+", no_proxy.lower())
    networks = () if address is None else [network for network in map(_ip_network, names) if network is not None]
    return (
        "*" in names
        or any(address in network for network in networks)
        or any(_is_named(host, _port(parts), name) for name in names)
    )


def is_loopback(host: str) -> bool:
    """Whether this name or IP address is this machine's own."""
    address = _ip_address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def _is_named(host: str, port: int, name: str) -> bool:
    bare, colon, wanted = name.rpartition(":") if re.fullmatch(r"(\[.*\]|[^:]*):\d+", name) else (name, "", "")
    bare = bare.strip("[]").removeprefix("*").strip(".")
    return bool(bare) and (not colon or wanted == str(port)) and (host == bare or host.endswith(f".{bare}"))


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _ip_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def file_mistake(path: str) -> str | None:
    """Why this file cannot be read; None if it can. Never anything of what is in it."""
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no such file'}"
    return None


def authorities_mistake(path: str) -> str | None:
    """Why these are no certificates to trust; None if they are."""
    if unreadable := file_mistake(path):
        return unreadable
    try:
        ssl.create_default_context().load_verify_locations(path)
        found = TlsFiles(path).authorities()
    except OSError:
        found = []
    # OpenSSL also takes "TRUSTED CERTIFICATE", which nobody else can read.
    return None if found else f"{path} has no certificate in PEM form"


def client_mistake(tls: TlsFiles) -> str | None:
    """Why certificate and key cannot be shown to a server; None if they can, or there are none."""
    if tls.cert_file is None:
        return "has a key, but no certificate" if tls.key_file else None
    for path in filter(None, (tls.cert_file, tls.key_file)):
        if unreadable := file_mistake(path):
            return unreadable
    try:
        TlsFiles(cert_file=tls.cert_file, key_file=tls.key_file).context()
    except OSError:
        where = tls.cert_file if tls.key_file is None else f"{tls.cert_file} and {tls.key_file}"
        return f"{where} must be a certificate and its own key in PEM form, without a password"
    return None
