"""OpenAI's moderations: POST /v1/moderations. They cost no tokens: each is billed as one request."""

from __future__ import annotations

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound, WholeEndpoint
from sentinel.endpoints.strict_json import Shape
from sentinel.error import MissingParameter
from sentinel.tokens.answer import read_answer
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.media_request import ModerationRequest

_decoder = msgspec.json.Decoder(ModerationRequest)
_SHAPE: Shape = {}
_NOTHING = (msgspec.Raw(), msgspec.Raw(b"null"))
_RESULTS = [(0, "")]
"""That there are results is enough for the request to be spent."""


class ModerationsEndpoint(WholeEndpoint[ModerationRequest]):
    """Moderations: texts and images in, what is wrong with each out. Usage counts only where the provider tells it."""

    format = "moderations"
    route = "/v1/moderations"
    path = b"/moderations"

    def read(self, body: bytes) -> ModerationRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        request = json_body.read(_decoder.decode, _SHAPE, body)
        if request.input in _NOTHING:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        request.input = msgspec.Raw()
        return request

    def count(self, request: ModerationRequest, counter: TokenCounter) -> int:  # noqa: ARG002 (it is the same for all)
        """None: OpenAI bills none."""
        return 0

    def forget_prompt(self, request: ModerationRequest) -> None:
        """Nothing was kept."""

    def bound(self, request: ModerationRequest) -> OutputBound:  # noqa: ARG002 (it is the same for all)
        """No output."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """What an answer says; None if it cannot be read."""
        reading = read_answer(body)
        if reading is None or reading.failed:
            return reading
        return Reading([], reading.usage, _RESULTS)


MODERATIONS = ModerationsEndpoint()
