"""Whether Zion refuses an item, or everything: pure decisions. Moments are monotonic seconds and come as arguments.

Three refusals within seconds prove nothing where nobody's usage passes: that is a Zion in maintenance, or one whose key
or contract has changed. Then usage waits as it does while Zion is away, and becomes dead letters after an hour only.
"""

from __future__ import annotations

SEVERAL_USERS = 2
OUTAGE_SECONDS = 3600.0


class Blame:
    """Who was refused since Zion has last taken anything."""

    def __init__(self) -> None:
        self._users: set[str] = set()
        self._since = 0.0

    def passed(self) -> None:
        """Zion has taken something: whoever it refuses now is at fault."""
        self._users.clear()

    def refused(self, user: str, now: float) -> None:
        """Zion has refused an item of this user."""
        if not self._users:
            self._since = now
        if len(self._users) < SEVERAL_USERS:
            self._users.add(user)

    def is_outage(self, now: float) -> bool:
        """Whether it is not the item that is at fault."""
        return len(self._users) == SEVERAL_USERS and now - self._since < OUTAGE_SECONDS
