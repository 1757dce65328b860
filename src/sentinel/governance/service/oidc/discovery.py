"""The issuer over HTTP: its discovery document and its keys. The only file that talks to it."""

from __future__ import annotations

from datetime import timedelta

from msgspec import MsgspecError, Struct, json
from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, PyreqwestError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.response import SyncResponse

from sentinel.clock import monotonic
from sentinel.egress import Egress
from sentinel.governance.service.oidc.jwks import KeySet, MalformedKeys, max_age_seconds, read_keys
from sentinel.governance.service.oidc.settings import is_safe

FETCH_SECONDS = 2.0
"""For both documents together: whoever asks whose a token is has an answer within three (DESIGN section 9)."""

_MOST_BYTES = 1_000_000
_CHUNK_BYTES = 65_536


class IssuerUnavailable(Exception):
    """The issuer's keys cannot be had. The message says why, for a log."""


class _Document(Struct):
    issuer: str
    jwks_uri: str


class Discovery:
    """Fetches an issuer's keys, each time anew. Threads may share it. Certificates of ours are shown to nobody."""

    def __init__(self, issuer: str, egress: Egress) -> None:
        self._issuer = issuer
        self._client = _http_client(egress)

    def fetch(self) -> tuple[KeySet, float]:
        """The keys, and for how many seconds they are fresh. Raises IssuerUnavailable."""
        deadline = monotonic() + FETCH_SECONDS
        # The path is appended to the issuer's, without a slash at its end (OpenID Connect Discovery 1.0, 4.1).
        body, _ = self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", "discovery", deadline)
        body, cache_control = self._get(self._jwks_uri(body), "JWKS", deadline)
        try:
            return read_keys(body), max_age_seconds(cache_control)
        except MalformedKeys as error:
            raise IssuerUnavailable(f"JWKS: {error}") from error

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _jwks_uri(self, body: bytes) -> str:
        try:
            document = json.decode(body, type=_Document)
        except (MsgspecError, ValueError, RecursionError) as error:
            raise IssuerUnavailable("discovery: it is no discovery document") from error
        # Else one issuer could speak for another (OpenID Connect Discovery 1.0, 4.3).
        if document.issuer != self._issuer:
            raise IssuerUnavailable(f"discovery: it is the document of another issuer, {document.issuer[:200]!r}")
        secure = self._issuer.startswith("https:")
        if not is_safe(document.jwks_uri) or (secure and not document.jwks_uri.startswith("https:")):
            raise IssuerUnavailable("discovery: its jwks_uri is not https://")
        return document.jwks_uri

    def _get(self, url: str, what: str, deadline: float) -> tuple[bytes, str | None]:
        """The document, and its Cache-Control."""
        seconds = max(0.001, deadline - monotonic())
        try:
            request = self._client.get(url).timeout(timedelta(seconds=seconds)).build_streamed()
            with request as response:
                if response.status != 200:
                    raise IssuerUnavailable(f"{what}: status {response.status}")
                return _body(response, what), _cache_control(response)
        except PyreqwestError as error:
            raise IssuerUnavailable(f"{what}: {_root(error)}") from error


def _body(response: SyncResponse, what: str) -> bytes:
    body = bytearray()
    while (chunk := response.body_reader.read(_CHUNK_BYTES)) is not None:
        body += chunk
        if len(body) > _MOST_BYTES:
            raise IssuerUnavailable(f"{what}: it has more than {_MOST_BYTES} bytes")
    return bytes(body)


def _cache_control(response: SyncResponse) -> str | None:
    try:
        return response.get_header("cache-control")
    except ValueError:
        # Not ASCII.
        return None


def _root(error: PyreqwestError) -> str:
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return causes[-1]["message"] if causes else type(error).__name__


def _http_client(egress: Egress) -> SyncClient:
    builder = SyncClientBuilder().connect_timeout(timedelta(seconds=1)).follow_redirects(False).no_proxy()
    if egress.proxy:
        proxy = ProxyBuilder.all(egress.proxy.url)
        if egress.proxy.authorization:
            proxy = proxy.custom_http_auth(egress.proxy.authorization)
        builder = builder.proxy(proxy)
    for certificate in egress.tls.authorities():
        builder = builder.add_root_certificate_pem(certificate)
    return builder.user_agent("sentinel").build()
