"""Zion over HTTP: the governance port (`governance/port.py`), and the only file that talks to Zion.

Two ways to authenticate, never mixed: the caller's token, or our API key. Every failure becomes one of `error.py`, or
an `Outcome`; no status and nothing of what Zion said leaves this room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from pyreqwest.response import Response

from sentinel.clock import monotonic, now_ms
from sentinel.config import ConfigError
from sentinel.diagnosis import Subject, Trouble, trouble_of, trouble_of_answer
from sentinel.egress import DIRECT, Egress
from sentinel.error import AccessDenied, InvalidApiKey, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Outcome, Report, UsageItem
from sentinel.governance.tiers import TierConfig
from sentinel.limits.policy import Quota
from sentinel.steps import in_steps, json_list
from sentinel.timestamp import rfc3339
from sentinel.zion.models import MalformedAnswer, read_quota, read_tiers, read_user
from sentinel.zion.report import Increment, is_envelope, report_of

log = structlog.get_logger()

LOOKUP_TIMEOUT = timedelta(seconds=2.5)
"""A caller waits this long at most: an unknown token gets its 503 within 3 s (DESIGN section 9)."""

REPORT_TIMEOUT = timedelta(seconds=15)
"""A batch of usage may take Zion longer; nobody waits for it."""

MOST_ITEMS = 1000
"""Zion refuses a report with more (contract 1.5)."""

_SINGLE_SECONDS = 300.0
"""A Zion without the call for batches is not asked for it again for so long."""

SUBJECT = Subject("ZION_API_URL", "ZION_API_KEY", authorities="ZION_CA_FILE")
_NOT_ZION = Trouble("answers, but not as Zion does", "correct the host and path in ZION_API_URL")

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


class ZionClient:
    """The six calls of Zion's API that Sentinel makes, with deadlines and a breaker for look-ups."""

    def __init__(
        self, url: str, api_key: str, egress: Egress = DIRECT, *, report_timeout: timedelta = REPORT_TIMEOUT
    ) -> None:
        self._report_timeout = report_timeout
        self._url = url
        self._key = api_key
        self._client = http_client(egress)
        self._unanswered = 0
        self._asking = 0
        self._failed_at: float | None = None
        self._reachable = False
        self._single_until = 0.0

    @property
    def most_items(self) -> int:
        """How many items one report may have now: one, while Zion is known to have no call for batches."""
        return 1 if monotonic() < self._single_until else MOST_ITEMS

    @property
    def healthy(self) -> bool:
        """Whether Zion answered the last ping, and no look-up failed lately."""
        return self._reachable and (self._failed_at is None or monotonic() - self._failed_at > _UNWELL_SECONDS)

    async def identify(self, token: str) -> AuthenticatedUser:
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

    async def limits(self, user: str) -> Quota:
        """What the user may spend (GET /limits/external/{id}).

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
        return quota

    async def tiers(self) -> TierConfig:
        """The models of each tier (GET /tiers/config). Raises ZionUnavailable."""
        status, body = await self._look_up(self._with_key("GET", "/api/v1/tiers/config"))
        if status != 200:
            self._failed(f"status {status}")
            raise ZionUnavailable(_AWAY, retry_after_seconds=_RETRY_SECONDS)
        return self._read(read_tiers, body)

    async def report(self, items: Sequence[UsageItem], key: str) -> Report:
        """Report usage (POST /usage/external/batch-increment, or /increment where there is no such call). Never raises.

        key: the Idempotency-Key.
        """
        single = len(items) == 1 and self.most_items == 1
        if single:
            path, body = "increment", msgspec.json.encode(increment_of(items[0]))
        else:
            path = "batch-increment"
            body = b'{"increments":%b}' % await in_steps(json_list(items, increment_of))
        request = self._with_key("POST", f"/api/v1/usage/external/{path}").header("idempotency-key", key)
        try:
            response = await request.body_bytes(body).timeout(self._report_timeout).build().send()
            answer = bytes(await response.bytes())
        except PyreqwestError as error:
            log.warning("a usage report has no answer", reason=type(error).__name__)
            return Report(Outcome.LATER if _never_sent(error) else Outcome.UNKNOWN, reason="no answer")
        retry_after = _retry_after(response)
        report = await in_steps(
            report_of(response.status, answer, items, single=single, retry_after_seconds=retry_after)
        )
        if report.outcome is Outcome.SPLIT:
            self._single_until = monotonic() + _SINGLE_SECONDS
        if report.claimed:
            log.error("zion answers usage with no receipt", status=response.status, bytes=len(answer))
        return report

    async def ping(self) -> bool:
        """See whether Zion answers at all, with whatever."""
        try:
            response = await self._client.get(self._url).timeout(timedelta(seconds=1)).build().send()
        except PyreqwestError:
            self._reachable = False
        else:
            self._reachable = response.status < 500
        return self._reachable

    async def examine(self) -> Trouble | None:
        """What is wrong between Zion and us; None if it is a Zion, and takes our key."""
        # There is no such user: a Zion that takes our key says so in an envelope of its own.
        request = self._with_key("GET", "/api/v1/limits/external/sentinel-doctor").timeout(LOOKUP_TIMEOUT)
        try:
            response = await request.build().send()
            body = bytes(await response.bytes())
        except PyreqwestError as error:
            unknown = Trouble(f"fails ({error})", f"check {SUBJECT.setting} and the network")
            return trouble_of(error, SUBJECT) or unknown
        if response.status in (200, 404) and is_envelope(body):
            return None
        return trouble_of_answer(response.status, body, SUBJECT) or _NOT_ZION

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
        retry_after = _retry_after(response)
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


_MOST_COST_MICRO_USD = 10**12
"""Of one item: a governance refuses more, and with it the tokens (governance/service/increments.py)."""


def increment_of(item: UsageItem) -> Increment:
    """What Zion is told of this item: it books under the e-mail address."""
    requests, inputs, outputs = item.spent
    return Increment(
        email=item.email,
        ai_requests=requests,
        ai_input_tokens=inputs,
        ai_output_tokens=outputs,
        model=item.model,
        timestamp=rfc3339(item.at_ms),
        cost_micro_usd=min(item.cost_micro_usd, _MOST_COST_MICRO_USD),
    )


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


def _retry_after(response: Response) -> float | None:
    try:
        return retry_after_seconds(response.get_header("retry-after"))
    except ValueError:
        # Not ASCII.
        return None


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
