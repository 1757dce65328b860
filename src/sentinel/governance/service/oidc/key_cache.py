"""The issuer's keys, kept: fetched when they are needed, by one thread for all, and no oftener than they must be."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from sentinel.governance.service.oidc.discovery import IssuerUnavailable
from sentinel.governance.service.oidc.jwks import KeySet

log = structlog.get_logger()

_MOST_AGE_SECONDS = 86_400.0
"""While the issuer is away its last keys serve so long."""

_RETRY_SECONDS = 5.0
"""After a failure nothing is fetched for so long, so that an outage is no storm."""

_AGAIN_SECONDS = 30.0
"""A token that no key fits has them fetched anew, for they may have been rotated. But a stranger can make up any number
of such tokens, so it happens once in so long."""

_WAIT_SECONDS = 3.0
"""Longer than any fetch takes."""


class KeyCache:
    """Keeps keys. Threads share it.

    fetch: returns keys and for how many seconds they are fresh, or raises IssuerUnavailable. clock: seconds that go on.
    """

    def __init__(self, issuer: str, fetch: Callable[[], tuple[KeySet, float]], clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched_at = self._tried_at = float("-inf")
        self._due_at = float("-inf")
        self._again_at = float("-inf")
        self._failure: str | None = None
        self._landing: threading.Event | None = None

    def current(self) -> KeySet:
        """The keys, at most a day old. Raises IssuerUnavailable."""
        with self._lock:
            now = self._clock()
            kept = self._keys if now < self._fetched_at + _MOST_AGE_SECONDS else None
            # Whoever finds them stale fetches; others are not kept waiting for an issuer that may be away.
            if now < self._due_at or (kept is not None and self._landing):
                return self._usable(kept)
            landing, ours = self._join()
        self._fetch_or_wait(landing, ours=ours)
        with self._lock:
            return self._usable(self._keys if self._clock() < self._fetched_at + _MOST_AGE_SECONDS else None)

    def newer(self, than: KeySet, asked_at: float) -> KeySet:
        """The keys after another look, if there may be one: a token that came at `asked_at` fits none of these.

        Raises IssuerUnavailable where the last fetch failed: the token's key may be what could not be fetched.
        """
        with self._lock:
            now = self._clock()
            known = self._keys is not than or self._tried_at >= asked_at
            if known or (self._landing is None and now < self._again_at):
                return self._usable(None if self._failure else self._keys)
            landing, ours = self._join()
            if ours:
                self._again_at = now + _AGAIN_SECONDS
        self._fetch_or_wait(landing, ours=ours)
        with self._lock:
            return self._usable(None if self._failure else self._keys)

    def _usable(self, keys: KeySet | None) -> KeySet:
        if keys is None:
            raise IssuerUnavailable(self._failure or "its keys could not be fetched")
        return keys

    def _join(self) -> tuple[threading.Event, bool]:
        """The end of the fetch that is under way, and whether it is the caller's to do. Under the lock."""
        if self._landing:
            return self._landing, False
        self._landing = threading.Event()
        return self._landing, True

    def _fetch_or_wait(self, landing: threading.Event, *, ours: bool) -> None:
        if not ours:
            if not landing.wait(_WAIT_SECONDS):
                raise IssuerUnavailable("its keys are still being fetched")
            return
        try:
            self._take(*self._fetch())
        except IssuerUnavailable as error:
            self._failed(str(error))
        finally:
            with self._lock:
                self._landing = None
            landing.set()

    def _take(self, keys: KeySet, fresh_seconds: float) -> None:
        with self._lock:
            now = self._clock()
            self._keys, self._failure = keys, None
            self._fetched_at, self._tried_at, self._due_at = now, now, now + fresh_seconds
        if not keys.keys:
            log.warning("oidc issuer has no keys", issuer=self._issuer)

    def _failed(self, reason: str) -> None:
        with self._lock:
            self._failure, self._tried_at = reason, self._clock()
            self._due_at = max(self._due_at, self._tried_at + _RETRY_SECONDS)
        log.warning("oidc issuer fails", issuer=self._issuer, reason=reason)
