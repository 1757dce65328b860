"""What a prompt orders the OpenAI simulator to do: `[[tokens=200 delay=0.01 break_after=5]]`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

_TRUE = frozenset({"", "1", "true", "yes"})


class Ordered(Exception):
    """A directive orders an error: this status, and this Retry-After."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"an error is ordered: {status}")
        self.status = status
        self.retry_after = retry_after


class BadDirective(ValueError):
    """The directive has a word that does not exist, or a value that does not fit; the message names it."""


@dataclass(frozen=True, slots=True)
class Directive:
    """Orders for one answer. A chunk is a streamed piece of the reply; each of its words is one token.

    tokens: length of the reply, exact; one that is longer than `max_tokens` is cut there, as OpenAI does.
    first_delay, delay: seconds before the first chunk and between chunks; an answer in one piece takes the sum.
    break_after: cut the connection after that many chunks; an answer in one piece is cut in the middle.
    error_after: end a stream with the vendor's own error after that many chunks.
    hang_after: say nothing more after that many chunks; an answer in one piece never comes.
    split: write every event in two parts, parted inside its line or inside a character of several bytes.
    status, retry_after: answer with this error. no_usage: leave usage out. no_done: leave `[DONE]` out.
    reasoning: tokens that are thought before the reply, and billed; OpenAI does not show them.
    tool: call the first tool. refusal: refuse. text_emoji: use words of several bytes.
    bad_line: a malformed data line in the middle. big_event: pad one event to about that many bytes.
    usage_prompt, usage_completion: claim these numbers instead of the true ones.
    cached: of the input so many were in a cache, in messages alone.
    ignores_max: know no maximum of tokens. no_stream: know no streams, and answer in one piece.
    """

    tokens: int | None = None
    delay: float = 0.0
    first_delay: float = 0.0
    break_after: int | None = None
    error_after: int | None = None
    hang_after: int | None = None
    split: Literal["line", "utf8"] | None = None
    no_usage: bool = False
    status: int | None = None
    retry_after: str | None = None
    tool: bool = False
    refusal: bool = False
    no_done: bool = False
    text_emoji: bool = False
    bad_line: bool = False
    big_event: int | None = None
    usage_prompt: int | None = None
    usage_completion: int | None = None
    ignores_max: bool = False
    no_stream: bool = False
    reasoning: int = 0
    cached: int = 0

    def check_status(self) -> None:
        """Raises Ordered where an error is what is wanted."""
        if self.status is not None:
            raise Ordered(self.status, self.retry_after)

    def seconds(self, chunks: int) -> float:
        """How long an answer of so many chunks takes."""
        return self.first_delay + self.delay * max(0, chunks - 1)


NONE = Directive()
_KINDS = {f.name: str(f.type) for f in fields(Directive)}


def find_directive(text: str) -> Directive:
    """Read the last directive in `text`; `NONE` if there is none. Raises BadDirective."""
    start = text.rfind("[[")
    end = text.find("]]", start)
    if start < 0 or end < 0:
        return NONE
    return _parse(text[start + 2 : end])


@lru_cache(maxsize=4096)
def _parse(orders: str) -> Directive:
    values: dict[str, object] = {}
    for order in orders.split():
        name, _, value = order.partition("=")
        if name not in _KINDS:
            raise BadDirective(f"no directive {name!r}; there are {', '.join(_KINDS)}")
        values[name] = _value(name, value)
    return Directive(**values)  # type: ignore[arg-type]  # _value gives each field what its type says.


def _value(name: str, value: str) -> object:
    kind = _KINDS[name]
    try:
        if kind == "bool":
            return value.lower() in _TRUE
        if kind.startswith("int"):
            return int(value)
        if kind == "float":
            return float(value)
    except ValueError as cause:
        raise BadDirective(f"directive {name}={value!r} is not a number") from cause
    if name == "split" and value not in {"line", "utf8"}:
        raise BadDirective("split is either 'line' or 'utf8'")
    return value
