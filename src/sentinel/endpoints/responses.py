"""OpenAI's responses: POST /v1/responses, whole or as a stream.

What a response is told of what lies at the provider (`previous_response_id`, `conversation`, `prompt`, files) is input
that nobody here sees: the provider's usage bills it. What an earlier response, or a conversation, is known to bring is
reserved (`cache/contexts.py`). Each must be the caller's own (P7). A response in the background
is answered before it is generated: it is a job, which is followed until it ends (`proxy/job_follower.py`).
"""

from __future__ import annotations

from msgspec import Struct

from sentinel.endpoints import json_body, responses_stream
from sentinel.endpoints.endpoint import UNCHANGED, Changes, Endpoint, OutputBound
from sentinel.endpoints.objects import RECALLED, created_in_response
from sentinel.endpoints.references import ReferenceFields
from sentinel.endpoints.responses_stream import ResponsesMeter
from sentinel.endpoints.strict_json import Shape
from sentinel.error import AppError, MissingParameter
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.sse import data_of
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.output import hides_output
from sentinel.tokens.request import ChatRequest
from sentinel.tokens.responses_answer import read_answer
from sentinel.tokens.responses_input import read_body
from sentinel.tokens.usage import Usage

LEAST_MAX = 16
"""OpenAI takes no lower `max_output_tokens`: "integer below minimum value. Expected a value >= 16" (pi#6265)."""

_MAX = "max_output_tokens"
_PART: Shape = {"input_audio": {}}
SHAPE: Shape = {
    "input": {"content": _PART, "output": _PART},
    "text": {"format": {"schema": None}},
    "tools": {"parameters": None},
    "tool_choice": None,
    "prompt": None,
    "conversation": {},
}


class ResponsesRequest(Struct, gc=False):
    """What is decided on of a request. chat: what it is counted as. background: it is generated after its answer."""

    model: str
    stream: bool | None
    client_max: int | None
    chat: ChatRequest
    background: bool = False


class ResponsesEndpoint(Endpoint[ResponsesRequest]):
    """Responses: items in, items out."""

    format = "responses"
    ids = ReferenceFields(
        {
            "previous_response_id": "responses",
            "conversation": "conversations",
            "file_id": "files",
            "file_ids": "files",
            "vector_store_ids": "vector_stores",
            "container": "containers",
            "container_id": "containers",
            "skill_id": "skills",
        },
        {"item_reference": "responses"},
        recalled=RECALLED,
    )
    creates = True
    translates = True
    route = "/v1/responses"
    path = b"/responses"

    def read(self, body: bytes) -> ResponsesRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        fields, chat = json_body.read(read_body, SHAPE, body)
        if not fields.has_input:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        return ResponsesRequest(
            fields.model, fields.stream, fields.max_output_tokens, chat, background=bool(fields.background)
        )

    def count(self, request: ResponsesRequest, counter: TokenCounter) -> int:
        """The input tokens that can be seen: instructions, items, tools, text format."""
        return counter.count_chat(request.chat, request.model)

    def forget_prompt(self, request: ResponsesRequest) -> None:
        """Free what was read to be counted."""
        request.chat = ChatRequest(request.model, [])

    def bound(self, request: ResponsesRequest) -> OutputBound:
        """What the request says of its output; its maximum is one of all items, and of what is thought unseen."""
        hides = hides_output(request.model)
        # In the background it goes on when its stream is ended.
        in_sight = bool(request.stream) and not hides and not request.background
        return OutputBound(1, 1, request.client_max, None, in_sight, True, hides, LEAST_MAX)

    def changes(self, request: ResponsesRequest, bound: OutputBound, output_max: int | None) -> Changes:  # noqa: ARG002
        """A maximum is told where there is one; usage is told unasked."""
        if output_max is None:
            return UNCHANGED
        return Changes(output_max=output_max, output_field=_MAX, adds_max=bound.client_max is None)

    def changed(self, body: bytes, request: ResponsesRequest, changes: Changes) -> bytes:
        """The body with these changes; the client's own bytes where there are none."""
        maxima = {} if request.client_max is None else {_MAX: request.client_max}
        return json_body.changed(body, changes, maxima, has_options=False)

    def meter(self, request: ResponsesRequest, redactor: Redactor) -> ResponsesMeter:
        """The meter of the request's stream."""
        return ResponsesMeter(request.model, redactor)

    def ending(self, request: ResponsesRequest, meter: StreamMeter, usage: Usage) -> bytes:  # noqa: ARG002
        """The events that end a stream at a limit: what is open is done, and the response incomplete."""
        assert isinstance(meter, ResponsesMeter)
        return responses_stream.ending(meter, usage)

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says; None if it cannot be read."""
        return read_answer(body)

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream."""
        return responses_stream.answer(body)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """A provider's refusal as the last event of a stream."""
        return responses_stream.refusal(status, body)

    def job_kind(self, request: ResponsesRequest) -> str:
        """A response in the background is a job."""
        return "responses" if request.background else ""

    def created(self, told: bytes) -> tuple[str, ...]:
        """The response and its items, where the provider keeps them (`store`), and the containers of its tools."""
        answer = parse(data_of(told) or told)
        if not isinstance(answer, dict):
            return ()
        response = answer.get("response", answer)
        return created_in_response(response) if isinstance(response, dict) else ()

    def render_event(self, error: AppError, meter: StreamMeter | None, request_id: str) -> bytes:  # noqa: ARG002
        """An error as the last event of a stream."""
        assert meter is None or isinstance(meter, ResponsesMeter)
        return responses_stream.error_event(error, meter)


RESPONSES = ResponsesEndpoint()
