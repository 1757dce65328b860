"""What OpenAI's chat and completions have in common: the fields that we add, their events, their whole answers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, TypeVar

from sentinel.endpoints import answer_as_stream, json_body, openai_stream
from sentinel.endpoints.endpoint import UNCHANGED, Changes, Endpoint, OutputBound, Request
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.answer import read_answer
from sentinel.tokens.loose import Reading
from sentinel.tokens.request import StreamOptions
from sentinel.tokens.usage import Usage


class OpenAIRequest(Request, Protocol):
    """What both formats' requests have."""

    stream_options: StreamOptions | None


R = TypeVar("R", bound=OpenAIRequest)


class OpenAIEndpoint(Endpoint[R]):
    """Chat or completions. stream_object: what `object` of their events says; empty_choice: one that says nothing more.

    output_field: what a maximum is called that we add.
    """

    output_field: ClassVar[str]
    stream_object: ClassVar[str]
    empty_choice: ClassVar[dict[str, Any]]

    @abstractmethod
    def maxima(self, request: R) -> dict[str, int]:
        """The client's own maxima of output, by their fields."""

    def changes(self, request: R, bound: OutputBound, output_max: int | None) -> Changes:
        """Usage is asked for in streams, and a maximum told where there is one."""
        ask_usage = bool(request.stream) and not _asks_usage(request)
        if output_max is None and not ask_usage:
            return UNCHANGED
        adds_max = output_max is not None and bound.client_max is None
        adds_usage = ask_usage and request.stream_options is None
        return Changes(ask_usage, output_max, self.output_field, (), adds_usage, adds_max)

    def changed(self, body: bytes, request: R, changes: Changes) -> bytes:
        """The body with these changes; the client's own bytes where there are none."""
        if changes is UNCHANGED:
            return body
        return json_body.changed(body, changes, self.maxima(request), has_options=request.stream_options is not None)

    def meter(self, request: R, redactor: Redactor) -> StreamMeter:
        """The meter of the request's stream; the usage that only we asked for is withheld."""
        withhold = not _asks_usage(request)
        return StreamMeter(request.model, openai_stream.FORMAT, withhold_usage=withhold, redactor=redactor)

    def ending(self, request: R, meter: StreamMeter, usage: Usage) -> bytes:
        """The events that end a stream at a limit: `length` for each choice, usage if it was asked for, `[DONE]`."""
        return openai_stream.ending(
            meter,
            kind=self.stream_object,
            empty_choice=self.empty_choice,
            choices=self.bound(request).choices,
            usage=usage if _asks_usage(request) else None,
        )

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says; None if it cannot be read."""
        return read_answer(body)

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream."""
        return answer_as_stream.answer(body)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """A provider's refusal as the last event of a stream."""
        return answer_as_stream.refusal(status, body)


def _asks_usage(request: OpenAIRequest) -> bool:
    """Whether the client wants the usage chunk of its stream."""
    return bool(request.stream_options and request.stream_options.include_usage)
