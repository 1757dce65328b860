"""Talks to Zion. Two ways to authenticate, never mixed: the caller's token, or our API key.

Every failure becomes one of `error.py`; what Zion said in its body never leaves this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote

import msgspec
import structlog
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PyreqwestError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import RequestBuilder

from sentinel.clock import monotonic, now_ms
from sentinel.config import ConfigError
from sentinel.egress import DIRECT, Egress
from sentinel.error import AccessDenied, InvalidApiKey, ZionUnavailable
from sentinel.limits.policy import Quota
from sentinel.zion.models import AuthenticatedUser, Increment, MalformedAnswer, is_envelope, read_quota, read_user

log = structlog.get_logger()

LOOKUP_TIMEOUT = timedelta(seconds=2.5)
"""A caller waits this long at most: an unknown token gets its 503 within 3 s (DESIGN section 9)."""

REPORT_TIMEOUT = timedelta(seconds=15)
"""A batch of usage may take Zion longer; nobody waits for it."""

_FAILURES = 3
"""So many look-ups in a row without any answer, and no more are tried at once than one: others fail fast until it gets
one. An odd answer to one token, or about one user, is no reason to keep others out."""
_RETRY_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 3600.0
_UNWELL_SECONDS = 10.0
_AWAY = "The governance system is not available."

_ABOUT_THE_QUESTION = frozenset((400, 404, 413, 414, 422, 431))
"""Statuses of an answer that finds fault with what we asked for, a token or a user: a gateway before Zion calls a token
malformed, unprocessable or too large. The others of 4xx are about us (405, 406, 410: another Zion than we know) or the
moment (408, 425, 429), and no word on the token."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of a usage report. status: 0 = no answer.

    not_sent: Zion cannot have taken it. Without that and without a status, nobody knows.
    """

    status: int
    body: bytes = b""
    retry_after_seconds: float | None = None
    not_sent: bool = False

    @property
    def taken(self) -> bool:
        """Zion said yes."""
        return 200 <= self.status < 300


class ZionClient:
    """The five calls of Zion's API that Sentinel makes, with deadlines and a breaker for look-ups."""

    def __init__(self, url: str, api_key: str, egress: Egress = DIRECT) -> None:
        self._url = url
        self._key = api_key
        self._client = http_client(egress)
        self._unanswered = 0
        self._asking = 0
        self._failed_at: float | None = None
        self._reachable: bool | None = None

    @property
    def healthy(self) -> bool:
        """Whether Zion answered the last ping, and no look-up failed lately."""
        return bool(self._reachable) and (self._failed_at is None or monotonic() - self._failed_at > _UNWELL_SECONDS)

    @property
    def reachable(self) -> bool:
        """Whether Zion answered the last ping, with whatever."""
        return bool(self._reachable)

    async def user(self, token: str) -> AuthenticatedUser:
        """Who this token belongs to (GET /users/me).

        Raises InvalidApiKey (401, what is about the token, `success: false`), AccessDenied (403), ZionUnavailable
        (anything else).
        """
        try:
            request = self._client.get(f"{self._url}/api/v1/users/me").bearer_auth(token)
        except ValueError as error:
            raise InvalidApiKey("Incorrect API key provided: this is no token.") from error
        status, body = await self._look_up(request)
        if status == 403:
            raise AccessDenied("Access denied.")
        user = self._read(read_user, body) if status == 200 else None
        if user is None:
            raise InvalidApiKey("Incorrect API key provided: the token is unknown, expired or revoked.")
        return user

    async def limits(self, user: str) -> tuple[Quota, bytes]:
        """What the user may spend (GET /limits/external/{id}), and the answer it was read from.

        Raises AccessDenied where Zion knows no subscription for the user, ZionUnavailable.
        """
        # An empty name or dots would be another path at Zion.
        if not user.strip("."):
            raise AccessDenied("No subscription is known for this user.")
        status, body = await self._look_up(self._with_key("GET", f"/api/v1/limits/external/{quote(user, safe='')}"))
        if status in (401, 403):
            log.error("zion refuses our api key", status=status)
            self._failed_at = monotonic()
            raise ZionUnavailable(_AWAY, retry_after_seconds=5)
        quota = self._read(lambda body: read_quota(body, now_ms(), user), body) if status == 200 else None
        if quota is None:
            raise AccessDenied("No subscription is known for this user.")
        return quota, body

    async def report(self, increments: Sequence[Increment], idempotency_key: str) -> Reported:
        """Report up to 1,000 items of usage at once (POST /usage/external/batch-increment). Never raises."""
        body = msgspec.json.encode({"increments": increments})
        return await self._report("/api/v1/usage/external/batch-increment", body, idempotency_key)

    async def report_one(self, increment: Increment, idempotency_key: str) -> Reported:
        """Report one item (POST /usage/external/increment), for a Zion without batches. Never raises."""
        return await self._report("/api/v1/usage/external/increment", msgspec.json.encode(increment), idempotency_key)

    async def ping(self) -> None:
        """See whether Zion answers at all."""
        try:
            response = await self._client.get(self._url).timeout(timedelta(seconds=1)).build().send()
        except PyreqwestError:
            self._reachable = False
        else:
            self._reachable = response.status < 500

    async def examine(self) -> tuple[int, bytes]:
        """Status and body of an answer about a user who cannot exist, for operators. Raises PyreqwestError."""
        request = self._with_key("GET", "/api/v1/limits/external/sentinel-doctor").timeout(LOOKUP_TIMEOUT)
        response = await request.build().send()
        return response.status, bytes(await response.bytes())

    async def knows_us(self) -> bool:
        """Whether this is a Zion, and takes our key."""
        try:
            status, body = await self.examine()
        except PyreqwestError:
            return False
        return status in (200, 404) and is_envelope(body)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _with_key(self, method: str, path: str) -> RequestBuilder:
        request = self._client.request(method, self._url + path)
        return request.header("x-api-key", self._key, is_sensitive=True).header("content-type", "application/json")

    async def _look_up(self, request: RequestBuilder) -> tuple[int, bytes]:
        """Status and body of an answer that decides something: 200, 401, 403, or one about the question.

        What cannot be sent, such as an address of 100 KB, counts as refused. Raises ZionUnavailable.
        """
        if self._unanswered >= _FAILURES and self._asking:
            raise ZionUnavailable(_AWAY, retry_after_seconds=_RETRY_SECONDS)
        self._asking += 1
        try:
            response = await request.timeout(LOOKUP_TIMEOUT).build().send()
            body = bytes(await response.bytes())
        except BuilderError:
            return 414, b""
        except PyreqwestError as error:
            self._unanswered += 1
            self._failed(type(error).__name__)
            raise ZionUnavailable(_AWAY, retry_after_seconds=_RETRY_SECONDS) from error
        finally:
            self._asking -= 1
        self._unanswered = 0
        if response.status in (200, 401, 403) or response.status in _ABOUT_THE_QUESTION:
            return response.status, body
        retry_after = retry_after_seconds(response.get_header("retry-after"))
        if response.status != 429:
            self._failed(f"status {response.status}")
        raise ZionUnavailable(_AWAY, retry_after_seconds=retry_after or _RETRY_SECONDS)

    def _read(self, reader: Callable[[bytes], T], body: bytes) -> T:
        try:
            return reader(body)
        except MalformedAnswer as error:
            self._failed("malformed answer")
            raise ZionUnavailable(_AWAY, retry_after_seconds=_RETRY_SECONDS) from error

    def _failed(self, reason: str) -> None:
        self._failed_at = monotonic()
        log.warning("zion fails", reason=reason)

    async def _report(self, path: str, body: bytes, idempotency_key: str) -> Reported:
        request = self._with_key("POST", path).header("idempotency-key", idempotency_key).body_bytes(body)
        try:
            response = await request.timeout(REPORT_TIMEOUT).build().send()
            answer = bytes(await response.bytes())
        except PyreqwestError as error:
            log.warning("a usage report has no answer", reason=type(error).__name__)
            return Reported(0, not_sent=_never_sent(error))
        return Reported(response.status, answer, retry_after_seconds(response.get_header("retry-after")))


def http_client(egress: Egress) -> Client:
    """A client that takes no proxy but this one, whatever the environment says: config.py has read it.

    Raises ConfigError for certificates that OpenSSL takes and this library does not, such as a key of a rare kind.
    """
    builder = (
        ClientBuilder().connect_timeout(timedelta(seconds=1)).follow_redirects(False).no_proxy().user_agent("sentinel")
    )
    if egress.proxy:
        proxy = ProxyBuilder.all(egress.proxy.url)
        if egress.proxy.authorization:
            proxy = proxy.custom_http_auth(egress.proxy.authorization)
        builder = builder.proxy(proxy)
    for certificate in egress.tls.authorities():
        builder = builder.add_root_certificate_pem(certificate)
    if identity := egress.tls.identity():
        builder = builder.identity_pem(identity)
    try:
        return builder.build()
    except BuilderError as error:
        raise ConfigError([f"ZION_CA_FILE, ZION_CLIENT_CERT_FILE, ZION_CLIENT_KEY_FILE: {_root(error)}"]) from error


def _root(error: DetailedPyreqwestError) -> str:
    causes = error.details["causes"] or []
    return causes[-1]["message"] if causes else "they cannot be used"


def _never_sent(error: PyreqwestError) -> bool:
    """Whether it failed to connect. The class does not tell: many a ConnectError came after sending."""
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return any("(Connect)" in cause["message"] for cause in causes or ())


def retry_after_seconds(value: str | None) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3); at most an hour.

    None where it is absent or neither.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal():
        return min(float(value), _LONGEST_RETRY_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return min(max(0.0, moment.timestamp() - now_ms() / 1000), _LONGEST_RETRY_SECONDS)
