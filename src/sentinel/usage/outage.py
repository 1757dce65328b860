"""Whether one item is refused, or everything. Decisions only: moments are monotonic seconds and come as arguments.

Three refusals within seconds prove nothing where nobody's usage passes: that is a governance in maintenance, or one
whose key or contract has changed. Then usage waits as it does while the governance is away, and becomes dead letters
after an hour only.
"""

from __future__ import annotations

SEVERAL_USERS = 2
OUTAGE_SECONDS = 3600.0


class OutageDetector:
    """Who was refused since anything was last taken. outage_seconds: after so long each refusal counts by itself."""

    def __init__(self, outage_seconds: float = OUTAGE_SECONDS) -> None:
        self._outage_seconds = outage_seconds
        self._users: set[str] = set()
        self._since = 0.0

    def passed(self) -> None:
        """Something was taken: whoever is refused now is at fault."""
        self._users.clear()

    def refused(self, user: str, now: float) -> None:
        """An item of this user was refused."""
        if not self._users:
            self._since = now
        if len(self._users) < SEVERAL_USERS:
            self._users.add(user)

    def is_outage(self, now: float) -> bool:
        """Whether it is not the item that is at fault."""
        return len(self._users) == SEVERAL_USERS and now - self._since < self._outage_seconds
