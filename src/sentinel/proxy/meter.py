"""What a stream has cost so far, read from a copy of its bytes.

Most chunks are only kept for later: their text is taken apart in one go, every few kilobytes, or when the reservation
could be near its end, or when somebody asks. What the client gets are the provider's bytes, less the usage chunk that
we asked for and the client did not.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sentinel.proxy.sse import EventBuffer, data_of, split_events
from sentinel.tokens.answer import Chunk, Usage
from sentinel.tokens.delivered import DeliveredText

MOST_PENDING_BYTES = 16 * 1024
"""Raw bytes kept before their text is taken out: bounds the memory of a stream, and each step to about 0.2 ms."""

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DONE = b"[DONE]"
_chunk = msgspec.json.Decoder(Chunk)
_head = msgspec.json.Decoder(dict[str, Any])


class StreamMeter:
    """Bytes of the provider in, bytes for the client out, and on request the tokens that went by.

    withhold_usage: the client did not ask for the usage chunk, so it does not get it.
    """

    __slots__ = (
        "_buffer",
        "_delivered",
        "_finished",
        "_first",
        "_pending",
        "_pending_bytes",
        "_withhold",
        "done",
        "malformed",
        "usage",
    )

    def __init__(self, model: str, *, withhold_usage: bool) -> None:
        self._buffer = EventBuffer()
        self._delivered = DeliveredText(model)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._withhold = withhold_usage
        self._finished: set[int] = set()
        self._first = b""
        self.usage: Usage | None = None
        self.done = b""
        self.malformed = 0

    @property
    def held_bytes(self) -> int:
        """Of an event that has not come whole."""
        return self._buffer.held_bytes

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the provider; return what the client may have of them, whole events only.

        `[DONE]` is held back in `done`: the exchange is not done before its usage is durable.
        """
        return self._inspect(self._buffer.feed(data))

    def rest(self) -> bytes:
        """At the end of a stream: what the client may have of an event without its blank line; usually nothing."""
        return b"" if self.done else self._inspect(self._buffer.rest())

    def _inspect(self, block: bytes) -> bytes:
        if not block:
            return block
        if not self._first:
            self._first = block
        if _DONE in block or _USAGE.search(block) is not None:
            block = self._sift(block)
        return block

    def delivered(self, block: bytes) -> None:
        """Note that the client gets this block."""
        self._pending.append(block)
        self._pending_bytes += len(block)
        if self._pending_bytes > MOST_PENDING_BYTES:
            self._take_apart()

    def _sift(self, block: bytes) -> bytes:
        kept = []
        for event in split_events(block):
            data = data_of(event)
            if data == _DONE:
                self.done = event
            elif data is None or _USAGE.search(data) is None or not self._is_our_usage(data):
                kept.append(event)
        return b"".join(kept)

    def _is_our_usage(self, data: bytes) -> bool:
        """Read the usage of an event; say whether the event is the one that only we asked for."""
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if chunk.usage is not None:
            self.usage = chunk.usage
        return self._withhold and not chunk.choices

    def could_exceed(self, tokens: int) -> bool:
        """Whether more than `tokens` may have been delivered; cheap, and never wrong when it says no."""
        return self._delivered.upper_bound() + self._pending_bytes > tokens

    def count(self) -> int:
        """The output tokens delivered so far, exactly."""
        self._take_apart()
        return self._delivered.count()

    def _take_apart(self) -> None:
        block, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        for event in split_events(block):
            data = data_of(event)
            if data is None or data == _DONE:
                continue
            try:
                chunk = _chunk.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.malformed += 1
                continue
            self._delivered.feed(chunk)
            self._finished.update(choice.index or 0 for choice in chunk.choices or () if choice.finish_reason)

    def ending(self, *, choices: int, usage: Usage | None) -> bytes:
        """The events that end this stream cleanly at a limit: finish_reason `length`, usage if wanted, `[DONE]`."""
        head = self._head()
        empty: dict[str, Any] = {"delta": {}} if "chunk" in str(head.get("object")) else {"text": "", "logprobs": None}
        open_choices = [
            {"index": index, **empty, "finish_reason": "length"}
            for index in range(choices)
            if index not in self._finished
        ]
        events = [{**head, "choices": open_choices}]
        if usage is not None:
            events.append({**head, "choices": [], "usage": msgspec.to_builtins(usage)})
        return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"

    def _head(self) -> dict[str, Any]:
        """id, object, created, model and the like, as the provider's first event had them."""
        for event in split_events(self._first):
            try:
                fields = _head.decode(data_of(event) or b"")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            return {name: value for name, value in fields.items() if name not in ("choices", "usage", "obfuscation")}
        return {"object": "chat.completion.chunk"}
