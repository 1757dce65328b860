"""An answer of OpenAI's chat, changed piece by piece into another vendor's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.bodies import Event
from sentinel.dev.reply import think

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.directive import Directive
    from sentinel.dev.generation import Form, Job
    from sentinel.dev.reply import Reply

    Json = dict[str, Any]

_DATA = b"data: "


class Altered:
    """A form (generation.py) that says what another one does, in a vendor's way: what differs, subclasses say.

    thoughts: the fields of a message in which what was thought is shown; OpenAI has none.
    """

    thoughts: tuple[str, ...] = ()

    def __init__(self, job: Job) -> None:
        self.form: Form = job.form
        self.bill = job.bill

    def answer(self, answer: Json) -> Json:
        """A whole answer in this vendor's way."""
        return answer

    def chunk(self, chunk: Json) -> Json:
        """A chunk of a stream in this vendor's way."""
        return chunk

    @property
    def reasoning(self) -> int:
        """Tokens that were thought."""
        return self.form.reasoning

    def usage(self, prompt_tokens: int, completion_tokens: int) -> Json:
        """The usage object."""
        return self.form.usage(prompt_tokens, completion_tokens)

    def whole(self, replies: list[Reply], usage_object: Json | None) -> bytes:
        """The answer in one piece."""
        answer = msgspec.json.decode(self.form.whole(replies, usage_object))
        if self.reasoning and self.thoughts:
            for choice in answer["choices"]:
                choice["message"] |= dict.fromkeys(self.thoughts, think(self.reasoning, None).text)
        return msgspec.json.encode(self.answer(answer))

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        """The answer as events."""
        for number, event in enumerate(self.form.events(replies, directive)):
            if number == len(replies) and self.thoughts:
                # Each choice has been opened by now. What is thought is billed already, so these say and cost nothing.
                yield from self._thought(event.data)
            yield Event(self._altered(event.data), event.tokens)

    def ending(self, replies: list[Reply], usage_object: Json | None, directive: Directive) -> list[bytes]:
        """The events that end it."""
        return [self._altered(data) for data in self.form.ending(replies, usage_object, directive)]

    def failure(self) -> bytes:
        """What ends a stream that fails on its way."""
        return self.form.failure()

    def usage_so_far(self, tokens: int) -> Json:
        """Usage within a stream. tokens: of the chunk that it is in, which is not billed yet."""
        return self.usage(self.bill.prompt_tokens, self.bill.completion_tokens + tokens)

    def _thought(self, data: bytes) -> Iterator[Event]:
        for piece in think(self.reasoning, None).pieces:
            chunk = _decoded(data)
            assert chunk is not None
            choice = {**chunk["choices"][0], "delta": dict.fromkeys(self.thoughts, piece.text), "finish_reason": None}
            yield Event(as_event(self.chunk({**chunk, "choices": [choice]})))

    def _altered(self, data: bytes) -> bytes:
        chunk = _decoded(data)
        return data if chunk is None else as_event(self.chunk(chunk))


def as_event(chunk: Json) -> bytes:
    """A chunk as a server-sent event."""
    return b"%b%b\n\n" % (_DATA, msgspec.json.encode(chunk))


def without(value: Json, *names: str) -> Json:
    """It, without these fields."""
    return {name: each for name, each in value.items() if name not in names}


def with_usage(event: Event, usage: Json) -> Event:
    """An event whose chunk has usage, too."""
    chunk = _decoded(event.data)
    return event if chunk is None else Event(as_event({**chunk, "usage": usage}), event.tokens)


def _decoded(data: bytes) -> Json | None:
    """The chunk of an event; None of what is no JSON, such as the end."""
    try:
        chunk: Json = msgspec.json.decode(data.removeprefix(_DATA))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return chunk
