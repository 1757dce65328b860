"""What an operator says of the issuer: who it is, for whom its tokens are, which claims to read. Decides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from sentinel.egress import is_loopback
from sentinel.governance.service.oidc.jwks import ALGORITHMS


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Which tokens are good, and what to read of them. Raises ValueError, which says what is wrong.

    audiences: a token must be for one of these. email_claim, external_id_claim, plan_claim: names of claims; no plan is
    read without the last. leeway_seconds: by so much our clock and the issuer's may differ.
    """

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...] = ALGORITHMS
    email_claim: str = "email"
    external_id_claim: str = "sub"
    plan_claim: str | None = None
    leeway_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not is_safe(self.issuer) or re.search(r"[?#]", self.issuer):
            raise ValueError("the issuer must be https://HOST, perhaps with a path; http:// only on this machine")
        if not self.audiences or not all(self.audiences):
            raise ValueError("there must be an audience, and none may be empty")
        if foreign := [name for name in self.algorithms if name not in ALGORITHMS]:
            raise ValueError(f"not among the algorithms that can be allowed ({', '.join(ALGORITHMS)}): {foreign[0]}")
        if not self.algorithms:
            raise ValueError("an algorithm must be allowed")
        if not self.email_claim or not self.external_id_claim or self.plan_claim == "":
            raise ValueError("a claim must have a name")
        if not 0 <= self.leeway_seconds <= 600:
            raise ValueError("the leeway must be 0 to 600 seconds")


def is_safe(url: str) -> bool:
    """Whether nobody in between can read or change what is fetched from there: https://, or http:// on this machine."""
    # What Python takes for the host must be the host to the HTTP client: no spaces, no backslashes, no user before @.
    if not re.fullmatch(r"https?://[^@\\\x00-\x20\x7f-\U0010ffff]+", url):
        return False
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    return bool(host) and port != 0 and (parts.scheme == "https" or is_loopback(host))
