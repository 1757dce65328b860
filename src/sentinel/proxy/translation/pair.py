"""What each pair of formats offers: one request translated, and its answer on the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

from sentinel.proxy.sse import EventBuffer, data_of, split_events
from sentinel.tokens.loose import parse

MOST_HELD_BYTES: Final = 8 * 1024 * 1024
"""Of one event; no stream of text has one so large, and what cannot be read cannot be translated."""

BROKEN_OFF: Final = "The model provider's stream ended before its answer did."
_TOO_LARGE: Final = "The model provider sent an event that is too large to be translated."


def string(value: Any) -> str:
    """A provider's word; empty for what is none."""
    return value if isinstance(value, str) else ""


class StreamTranslator(ABC):
    """A provider's events in, the client's events out.

    ended: the client has the last event, an error perhaps; nothing follows it.
    """

    def __init__(self) -> None:
        self.ended = False
        self._events = EventBuffer(MOST_HELD_BYTES)

    def feed(self, data: bytes) -> bytes:
        """The client's events for the next bytes of the provider's stream, cut anywhere."""
        whole = self._events.feed(data)
        if self._events.is_inside:
            return self._failed(_TOO_LARGE)
        return self._translated(whole)

    def end(self) -> bytes:
        """The client's last events, once the provider's stream is over; an error where it broke off."""
        return self._translated(self._events.rest()) + (b"" if self.ended else self._closed())

    def cut(self) -> bytes:
        """The events that end the client's stream here and cleanly, since a limit is reached."""
        return b"" if self.ended else self._at_limit()

    def fail(self, status: int, message: str) -> bytes:
        """An error as the client's last event. status: as if it were that of an answer."""
        if self.ended:
            return b""
        self.ended = True
        return self._error({"message": message}, status)

    def _failed(self, message: str) -> bytes:
        return self.fail(502, message)

    def _translated(self, block: bytes) -> bytes:
        out = []
        for event in split_events(block):
            data = data_of(event)
            if data and not self.ended:
                out.append(self._event(data))
        return b"".join(out)

    def _event(self, data: bytes) -> bytes:
        fields = parse(data)
        if not isinstance(fields, dict):
            return self._said_otherwise(data)
        error = fields.get("error")
        if error:
            self.ended = True
            return self._error(error if isinstance(error, dict) else {"message": str(error)}, 502)
        return self._said(fields)

    def _said_otherwise(self, data: bytes) -> bytes:  # noqa: ARG002
        """The client's events for data that is no JSON object."""
        return b""

    @abstractmethod
    def _said(self, event: dict[str, Any]) -> bytes:
        """The client's events for one of the provider's; sets `ended` with the last one."""

    @abstractmethod
    def _closed(self) -> bytes:
        """The client's last events, where the provider's stream is over and they are still to come."""

    @abstractmethod
    def _at_limit(self) -> bytes:
        """The client's last events at a limit; sets `ended`."""

    @abstractmethod
    def _error(self, error: dict[str, Any], status: int) -> bytes:
        """A provider's error as the client's last event."""


class Translation(ABC):
    """One request in the provider's format. path: at the provider, below its version; body: what is sent there."""

    path: bytes
    body: bytes

    @abstractmethod
    def answer(self, status: int, body: bytes) -> bytes:
        """A whole answer, or an error, in the client's format. Raises UpstreamError for what cannot be read."""

    @abstractmethod
    def stream(self, counted_input: int = 0) -> StreamTranslator:
        """The translator of the answer's stream. counted_input: tokens, for clients that are told them first."""
