"""What the simulator was asked for in a format beside text, and what it will answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from sentinel.dev.directive import NONE, Directive

EVENTS = "text/event-stream; charset=utf-8"
_TEXTS = ("prompt", "input", "instructions")


@dataclass
class Asked:
    """A request. fields: of its JSON or its form; files: of its form."""

    path: str
    fields: dict[str, Any]
    files: list[bytes] = field(default_factory=list)
    directive: Directive = NONE

    @property
    def text(self) -> str:
        """Where a directive may stand."""
        texts = [self.fields[name] for name in _TEXTS if isinstance(self.fields.get(name), str)]
        return texts[0] if texts else ""

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.fields["model"])


@dataclass(frozen=True)
class Plan:
    """An answer, whole or in pieces, and what it costs."""

    prompt_tokens: int
    completion_tokens: int = 0
    whole: bytes | None = None
    pieces: tuple[bytes, ...] = ()
    content_type: str = "application/json"

    @property
    def streams(self) -> bool:
        """Whether it comes in pieces."""
        return self.whole is None


def event(kind: str, **fields: Any) -> bytes:
    """An event as OpenAI sends it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
