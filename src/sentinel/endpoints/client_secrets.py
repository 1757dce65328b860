"""Keys for a while, for clients that shall not have their user's token: POST /v1/realtime/client_secrets.

Two older paths do the same. A browser opens a realtime session with such a key, which the provider makes and Sentinel
notes as its user's. It costs a request; what the session says is billed as it is said.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import NO_OUTPUT, ClientSecret, OutputBound, WholeEndpoint
from sentinel.endpoints.named_models import NamedModels
from sentinel.endpoints.realtime import IDS
from sentinel.endpoints.strict_json import Shape
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.usage import NOTHING

_SHAPE: Shape = {"session": {}}
_MADE = [(0, "")]
"""A key has no reason to end; that there is one is enough for the request to be spent."""


class _Session(Struct, gc=False):
    type: Any = None
    model: str | None = None


class _Body(Struct, gc=False):
    model: str | None = None
    session: _Session | None = None


class SecretRequest(Struct, gc=False):
    """What is decided on of a request. model: of the session, empty where it does not say.

    only_transcribes: the session, so that it has no model but that of its transcription.
    """

    model: str
    stream: bool | None = None
    only_transcribes: bool = False


_decoder = msgspec.json.Decoder(_Body)


class ClientSecretsEndpoint(WholeEndpoint[SecretRequest]):
    """Client secrets."""

    format = "realtime"
    route = "/v1/realtime/client_secrets"
    path = b"/realtime/client_secrets"
    ids = IDS
    creates = True
    models = (("session", "model"), ("model",))
    only_transcribes = False

    def read(self, body: bytes) -> SecretRequest:
        """The request in a body. Raises InvalidJson, InvalidType."""
        asked = json_body.read(_decoder.decode, _SHAPE, body)
        session = asked.session or _Session()
        only_transcribes = self.only_transcribes or session.type == "transcription"
        return SecretRequest(session.model or asked.model or "", only_transcribes=only_transcribes)

    def named_models(self, request: SecretRequest, body: bytes) -> NamedModels:
        """Those of the session, and of its transcription. Raises InvalidJson."""
        named = super().named_models(request, body)
        beside = {name: param for name, param in named.items() if name}
        return beside if beside and request.only_transcribes else named

    def count(self, request: SecretRequest, counter: TokenCounter) -> int:  # noqa: ARG002
        """None."""
        return 0

    def forget_prompt(self, request: SecretRequest) -> None:
        """There is none."""

    def bound(self, request: SecretRequest) -> OutputBound:  # noqa: ARG002
        """No output."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """What an answer says; None if it cannot be read."""
        answer = parse(body)
        if not isinstance(answer, dict):
            return None
        return Reading([], NOTHING, _MADE, bool(answer.get("error")))

    def secrets(self, told: bytes) -> tuple[ClientSecret, ...]:
        """The key that an answer has: on its own, or as its `client_secret`."""
        answer: Any = parse(told)
        answer = answer if isinstance(answer, dict) else {}
        beside = answer.get("client_secret")
        of = beside if isinstance(beside, dict) else answer
        value, ends = of.get("value"), of.get("expires_at")
        if not isinstance(value, str) or not isinstance(ends, int):
            return ()
        return (ClientSecret(value, ends),)


class SessionsEndpoint(ClientSecretsEndpoint):
    """The same as it was called before."""

    route = "/v1/realtime/sessions"
    path = b"/realtime/sessions"


class TranscriptionSessionsEndpoint(ClientSecretsEndpoint):
    """The same for sessions that only transcribe."""

    route = "/v1/realtime/transcription_sessions"
    path = b"/realtime/transcription_sessions"
    only_transcribes = True


CLIENT_SECRETS = ClientSecretsEndpoint()
SESSIONS = SessionsEndpoint()
TRANSCRIPTION_SESSIONS = TranscriptionSessionsEndpoint()
