"""What the ways in have in common: the database, the settings, the clock, and who signs tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sentinel.clock import monotonic, now_ms
from sentinel.governance.service import identity
from sentinel.governance.service.database import Database
from sentinel.governance.service.failures import Failures
from sentinel.governance.service.identity import Caller, SignedIn, TokenRefused
from sentinel.governance.service.increments import Clock
from sentinel.governance_settings import GovernanceSettings

_KEY_FAILURES, _KEY_SECONDS = 10, 60.0
"""Of our API keys, which programs show: one that is wrong stays so."""
_TOKEN_FAILURES, _TOKEN_SECONDS = 100, 1.0
"""Of tokens, which all users behind one proxy show."""


class TokenIssuer(Protocol):
    """Who signs tokens beside us."""

    def signed_in(self, token: str, now_ms: int) -> SignedIn:
        """What the token says. Raises TokenRefused; IssuerUnavailable where it cannot be verified now."""


class IssuerUnavailable(Exception):
    """Keys of the issuer cannot be had, so nobody knows whether a token is good."""


@dataclass
class Service:
    """The built-in governance. tiers: the `data` of GET /tiers/config. now: milliseconds since the epoch."""

    settings: GovernanceSettings
    database: Database
    tiers: bytes
    issuer: TokenIssuer | None = None
    now: Clock = now_ms
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
        who = self.issuer.signed_in(token, self.now())
        return identity.of_signed_in(self.database, who, self.settings.oidc_default_plan, self.now())

    def wait_after(self, failures: Failures, address: str) -> float:
        """Seconds that whoever showed something wrong from this address shall wait, 0 if none."""
        return failures.wait_seconds(address, monotonic())
