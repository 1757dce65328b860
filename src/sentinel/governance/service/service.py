"""What the ways in have in common: the database, the settings, the clock, and who signs tokens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sentinel.clock import monotonic, now_ms
from sentinel.governance.service import identity
from sentinel.governance.service.database import Database
from sentinel.governance.service.failures import Failures
from sentinel.governance.service.identity import Caller
from sentinel.governance.service.increments import Clock
from sentinel.governance.service.oidc.identity import TokenRefused
from sentinel.governance.service.oidc.issuer import Issuer
from sentinel.governance_settings import GovernanceSettings

_KEY_FAILURES, _KEY_SECONDS = 10, 60.0
"""Of our API keys, which programs show: one that is wrong stays so."""
_TOKEN_FAILURES, _TOKEN_SECONDS = 100, 1.0
"""Of tokens, which all users behind one proxy show."""


_REPORTS = 8
"""Booked at a time: they wait for one another, and must leave threads and connections to those who only look."""


@dataclass
class Service:
    """The built-in governance. tiers: the answer to GET /tiers/config. issuer: whose tokens are taken beside keys.

    now: milliseconds since the epoch.
    """

    settings: GovernanceSettings
    database: Database
    tiers: bytes
    issuer: Issuer | None = None
    now: Clock = now_ms
    reports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_REPORTS))
    wrong_keys: Failures = field(default_factory=lambda: Failures(_KEY_FAILURES, _KEY_SECONDS))
    wrong_tokens: Failures = field(default_factory=lambda: Failures(_TOKEN_FAILURES, _TOKEN_SECONDS))

    def caller(self, token: str) -> Caller:
        """Who a token belongs to.

        Raises TokenRefused, UserDisabled, IssuerUnavailable, DatabaseUnavailable.
        """
        if identity.is_key(token):
            return identity.of_key(self.database, token, self.now())
        if self.issuer is None:
            raise TokenRefused("no key of ours, and there is no OIDC_ISSUER")
        who = self.issuer.claims(token, self.now() / 1000)
        return identity.of_signed_in(self.database, who, self.settings.oidc_default_plan, self.now())

    def wait_after(self, failures: Failures, address: str) -> float:
        """Seconds that whoever showed something wrong from this address shall wait, 0 if none."""
        return failures.wait_seconds(address, monotonic())
