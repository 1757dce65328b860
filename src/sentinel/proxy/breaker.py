"""Whether a target is left alone for a while: after five failures in a row, or when it has said so. Decides.

Closed: requests go there. Open: none does, until a moment. Half-open: then one may try at a time; its success closes
it, its failure opens it for twice as long as before. What was on its way when it opened changes nothing of that, be it
one answer or a hundred failures. Source: DESIGN section 9.
"""

from __future__ import annotations

FAILURES = 5
"""In a row, after which a target is left alone."""
FIRST_SECONDS, MOST_SECONDS = 10.0, 60.0
MOST_RETRY_AFTER_SECONDS = 600.0
"""What a provider says it wants may be a day; it is asked sooner, by one request."""
PROBE_SECONDS = 30.0
"""A probe that tells nothing for so long keeps no other from trying."""


class Breaker:
    """Of one target. Moments are seconds of any clock that goes on."""

    __slots__ = ("_failures", "_open_seconds", "_probe", "_probe_until", "open_until")

    def __init__(self) -> None:
        self._failures = 0
        self._open_seconds = 0.0
        self._probe = 0
        self._probe_until = 0.0
        self.open_until = 0.0

    def wait_seconds(self, now: float) -> float:
        """How long no request goes there; 0 where one may."""
        if not self.open_until:
            return 0.0
        return max(0.0, max(self.open_until, self._probe_until) - now)

    def enter(self, now: float) -> int:
        """A request goes there, where none has to wait; behind an open breaker it is the probe, of this number."""
        if not self.open_until:
            return 0
        self._probe_until = now + PROBE_SECONDS
        self._probe += 1
        return self._probe

    def _is_probe(self, number: int) -> bool:
        return number > 0 and number == self._probe and self._probe_until > 0

    def succeeded(self, probe: int = 0) -> None:
        """A request was answered. probe: what `enter` said of it."""
        if self.open_until and not self._is_probe(probe):
            return
        self._failures = 0
        self._open_seconds = self.open_until = self._probe_until = 0.0

    def left(self, probe: int = 0) -> None:
        """A request ended that tells nothing of the target: its client left. probe: what `enter` said of it."""
        if self._is_probe(probe):
            self._probe_until = 0.0

    def failed(self, now: float, retry_after_seconds: float | None = None, probe: int = 0) -> bool:
        """A request failed; whether that has opened the breaker.

        retry_after_seconds: as the provider has it. probe: what `enter` said of the request.
        """
        self._failures += 1
        was_probe = self._is_probe(probe)
        if was_probe:
            self._probe_until = 0.0
        if retry_after_seconds is not None and retry_after_seconds > 0:
            return self._open(now, min(retry_after_seconds, MOST_RETRY_AFTER_SECONDS))
        if not was_probe and (self.open_until or self._failures < FAILURES):
            return False
        self._open_seconds = min(MOST_SECONDS, self._open_seconds * 2 or FIRST_SECONDS)
        return self._open(now, self._open_seconds)

    def _open(self, now: float, seconds: float) -> bool:
        before, self.open_until = self.open_until, max(self.open_until, now + seconds)
        return before <= now < self.open_until

    def heard(self, open_until: float) -> None:
        """Another process has found it to be so."""
        self.open_until = max(self.open_until, open_until)
