"""Faults of a simulated service, switched at run time from any thread."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentinel.dev.exchange import Exchange

    Trouble = Callable[[int, str | None], tuple[bytes, list[tuple[str, str]]]]
    """The service's own body and headers for a status and a Retry-After."""

_POLL_SECONDS = 0.01  # How soon a hanging request notices that the fault was cleared.


@dataclass
class Faults:
    """What goes wrong; any field may be set at any time, and `set` sets several at once.

    Where several are set, they happen in this order: delay, hang, drop, status, body.
    """

    delay_seconds: float = 0.0  # Before anything else.
    hang: bool = False  # No answer until this is cleared or the client leaves; then on with the rest.
    drop: bool = False  # Cut the connection instead of answering; nothing was applied.
    status: int | None = None  # Answer with this status and the service's own error body, or with `body`.
    retry_after: str | None = None  # The Retry-After header that goes with `status`: seconds or an HTTP date.
    body: bytes | None = None  # Answer with these bytes instead of the real ones: status 200 unless `status` is set.
    apply_then_drop: bool = False  # Zion's usage routes only: apply, then cut without an answer. The ambiguous case.
    apply_then_delay_seconds: float = 0.0  # Zion's usage routes only: apply at once, answer late.
    times: int | None = None  # How many requests are hit; None: all, until cleared.
    path_prefix: str = ""  # Only requests whose path starts with this are hit.
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def set(self, **changes: Any) -> None:
        """Replace all faults by these, in one step. Raises TypeError for an unknown name."""
        fresh = Faults(**changes)
        with self._lock:
            for name in _NAMES:
                setattr(self, name, getattr(fresh, name))

    def clear(self) -> None:
        """End all faults."""
        self.set()

    def as_json(self) -> dict[str, Any]:
        """The faults as plain values, for the control routes."""
        with self._lock:
            values = {name: getattr(self, name) for name in _NAMES}
        if self.body is not None:
            values["body"] = self.body.decode("utf-8", "replace")
        return values

    def take(self, path: str, applies_usage: bool = False) -> Fault | None:
        """Say what happens to a request for `path`, counting it off `times`; None if nothing does.

        applies_usage: whether this request is one that the apply_then faults are about.
        """
        with self._lock:
            if not path.startswith(self.path_prefix) or self.times == 0:
                return None
            fault = Fault(**{name: getattr(self, name) for name in _EFFECTS})
            if not applies_usage:
                fault = dataclasses.replace(fault, apply_then_drop=False, apply_then_delay_seconds=0.0)
            if fault == _NOTHING:
                return None
            if self.times is not None:
                self.times -= 1
            return fault


@dataclass(frozen=True)
class Fault:
    """What happens to one request; the fields are those of `Faults`."""

    delay_seconds: float = 0.0
    hang: bool = False
    drop: bool = False
    status: int | None = None
    retry_after: str | None = None
    body: bytes | None = None
    apply_then_drop: bool = False
    apply_then_delay_seconds: float = 0.0


async def misbehave(exchange: Exchange, fault: Fault, faults: Faults, trouble: Trouble) -> bool:
    """Let `fault` happen. True if the request is over: answered, cut, or its client gone.

    faults: where `fault` came from; a hanging request watches it. trouble: how the service says that it fails.
    """
    if fault.delay_seconds and not await exchange.pause(fault.delay_seconds):
        return True
    if fault.hang:
        while faults.hang:
            if not await exchange.pause(_POLL_SECONDS):
                return True
    if fault.drop:
        await exchange.cut()
        return True
    if fault.status is None and fault.body is None:
        return False
    status = fault.status or 200
    body, headers = trouble(status, fault.retry_after)
    await exchange.answer(status, body if fault.body is None else fault.body, headers)
    return True


def retry_headers(retry_after: str | None) -> list[tuple[str, str]]:
    """The Retry-After header, where there is one."""
    return [] if retry_after is None else [("retry-after", retry_after)]


async def misbehave_after(exchange: Exchange, fault: Fault | None) -> bool:
    """Let happen what comes after usage was applied. True if the request is over."""
    if fault is None:
        return False
    if fault.apply_then_delay_seconds and not await exchange.pause(fault.apply_then_delay_seconds):
        return True
    if fault.apply_then_drop:
        await exchange.cut()
        return True
    return False


_NAMES = tuple(f.name for f in dataclasses.fields(Faults) if not f.name.startswith("_"))
_EFFECTS = tuple(f.name for f in dataclasses.fields(Fault))
_NOTHING = Fault()
