"""The interface of a format, and the plain values that it decides in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar

from msgspec import Struct

from sentinel.endpoints.named_models import NamedModels, models_of_request
from sentinel.endpoints.references import NO_REFERENCES, Reference, ReferenceFields
from sentinel.error import AppError, body_of, event_of
from sentinel.limits.policy import Verdict
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.sse import COMMENT
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.usage import Usage


class Request(Protocol):
    """What every format's request has."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def stream(self) -> bool | None:
        """Whether the answer is to be a stream."""


class OutputBound(Struct, frozen=True, gc=False):
    """What a request says of its output. Tokens are of one choice.

    choices: that the provider generates, and bills. shown_choices: that a stream has. client_max: the client's own
    maximum, None where it gave none. default_max: what is generated without one, None where the model decides.
    least_max: no provider takes a lower maximum.
    grows_in_sight: all of the output is seen as it grows, so its reservation can be extended, or its stream ended.
    shows_its_cost: what is delivered is output, and nothing else. hides_output: the model bills more than it shows.
    """

    choices: int
    shown_choices: int
    client_max: int | None
    default_max: int | None
    grows_in_sight: bool
    shows_its_cost: bool
    hides_output: bool
    least_max: int = 1


NO_OUTPUT = OutputBound(
    choices=0,
    shown_choices=0,
    client_max=0,
    default_max=0,
    grows_in_sight=False,
    shows_its_cost=True,
    hides_output=False,
)


class ClientSecret(Struct, frozen=True, gc=False):
    """A key that a provider has made for a client. expires_at: seconds since the epoch."""

    value: str
    expires_at: int


class Changes(Struct, frozen=True, gc=False):
    """What the provider must be told beside what the client says. output_max: tokens of one choice, None = leave it.

    output_field: what a maximum is called where the client gave none. left_out: fields of ours that were refused.
    adds_usage, adds_max: the field that says so is ours alone, so the client must not hear of its refusal.
    """

    ask_usage: bool = False
    output_max: int | None = None
    output_field: str = "max_tokens"
    left_out: tuple[str, ...] = ()
    adds_usage: bool = False
    adds_max: bool = False


UNCHANGED = Changes()

R = TypeVar("R", bound=Request)


class Endpoint(ABC, Generic[R]):
    """One format. format: its name in configuration, logs and metrics; route: its path here; path: at a provider.

    ids: the fields that name objects of a provider. creates: answers may have made some. query: the parameters that
    pass to the provider. is_free: nothing is generated, so that it counts as a request of the rate limit, and is not
    billed. passed_statuses: of a provider's failures, those that clients of this format know what to do with.
    chooses_model: its requests name a tier, and no model. rewrites: whole answers are other ones than the provider's.
    comment: what a silent stream's client is sent. is_array: a stream is not events on the wire, but one JSON array.
    takes_forms: bodies may be forms. marks_streams: a stream says so by its content type, and all else is none.
    passes_bytes: an answer that is no stream is passed on as it comes, whatever its bytes are. names_model_in_path: the
    model stands in the path, not always in the body. models: the keys that lead to it in a body, one inside another,
    also through lists. translates: where no target speaks it, it may be translated, and what is free be answered by us.
    """

    format: ClassVar[str]
    route: str
    path: bytes
    ids: ClassVar[ReferenceFields] = NO_REFERENCES
    creates: ClassVar[bool] = False
    query: ClassVar[frozenset[bytes]] = frozenset()
    is_free: ClassVar[bool] = False
    passed_statuses: ClassVar[frozenset[int]] = frozenset()
    chooses_model: ClassVar[bool] = False
    rewrites: ClassVar[bool] = False
    comment: ClassVar[bytes] = COMMENT
    is_array: bool = False
    takes_forms: ClassVar[bool] = False
    marks_streams: ClassVar[bool] = False
    passes_bytes: ClassVar[bool] = False
    names_model_in_path: ClassVar[bool] = False
    models: ClassVar[tuple[tuple[str, ...], ...]] = (("model",),)
    translates: ClassVar[bool] = False

    def path_of(self, model: str) -> bytes:  # noqa: ARG002
        """The path at a provider that calls the model so."""
        return self.path

    def renamed(self, name: str, before: str, after: str) -> str:
        """What a body has as its model, where a provider calls it `after` and the client `before`."""
        return after if name == before else name

    @abstractmethod
    def read(self, body: bytes) -> R:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""

    def read_typed(self, body: bytes, content_type: bytes) -> tuple[R, tuple[Reference, ...]]:  # noqa: ARG002
        """The request in a body of this type, which may be a form, and the provider's objects that it names.

        Raises as `read` does, and InvalidForm.
        """
        return self.read(body), self.ids.found_in(body)

    @abstractmethod
    def count(self, request: R, counter: TokenCounter) -> int:
        """The input tokens."""

    @abstractmethod
    def forget_prompt(self, request: R) -> None:
        """Free what was read to be counted; all that is decided later, and the bytes that are sent on, stay."""

    @abstractmethod
    def bound(self, request: R) -> OutputBound:
        """What the request says of its output."""

    @abstractmethod
    def changes(self, request: R, bound: OutputBound, output_max: int | None) -> Changes:
        """What must be changed of a request whose output may have so many tokens a choice; None: leave its maximum."""

    @abstractmethod
    def changed(self, body: bytes, request: R, changes: Changes) -> bytes:
        """The body with these changes; the client's own bytes where there are none."""

    @abstractmethod
    def meter(self, request: R, redactor: Redactor) -> StreamMeter:
        """The meter of the request's stream."""

    @abstractmethod
    def ending(self, request: R, meter: StreamMeter, usage: Usage) -> bytes:
        """The events that end a stream at a limit. usage: what was spent, for a client that asked for it."""

    @abstractmethod
    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says; None if it cannot be read."""

    @abstractmethod
    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream, for a client that was told to expect one."""

    @abstractmethod
    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """A provider's refusal as the last event of a stream."""

    def named_models(self, request: R, body: bytes) -> NamedModels:
        """All models that a request names, for callers whose plan does not have each; body: empty where it is a form.

        "" is named where nothing says which model is to generate. Raises InvalidJson.
        """
        own = {request.model: "model"} if request.model or not self.is_free else {}
        return {**own, **(models_of_request(body) if body else {})}

    def tier_of(self, request: R) -> tuple[str, str | None]:
        """The tier that a request names, and its conversation. Asked where `chooses_model`."""
        raise NotImplementedError

    def choose(self, request: R, model: str) -> None:
        """The request is to this model. Told where `chooses_model`."""
        raise NotImplementedError

    def rewritten(self, body: bytes) -> bytes:
        """A whole answer in this format. Asked where it `rewrites`."""
        raise NotImplementedError

    def job_kind(self, request: R) -> str:  # noqa: ARG002
        """The kind of job that the provider goes on with after its answer, such as `responses`; "" = it does not."""
        return ""

    def passed_tokens(self, request: R, size: int) -> int:
        """The output tokens of so many bytes that were passed on as they came; asked of formats that pass such."""
        raise NotImplementedError

    def creates_with(self, request: R) -> bool:  # noqa: ARG002
        """Whether the answer to this request may have created something; asked where `creates` holds."""
        return True

    def telling(self, meter: StreamMeter) -> bytes:
        """The events of a stream that tell what it has created."""
        return meter.done

    def created(self, told: bytes) -> tuple[str, ...]:  # noqa: ARG002
        """The ids of what the provider keeps of a whole answer, or of a stream, of which this is the last event."""
        return ()

    def secrets(self, told: bytes) -> tuple[ClientSecret, ...]:  # noqa: ARG002
        """The keys that a whole answer has for a client."""
        return ()

    def own_answer(self, counted_input: int) -> bytes:
        """Our own answer to what is free. Asked where `is_free`, if no provider has such a path."""
        raise NotImplementedError

    def id_lines(self, request_id: bytes) -> bytes:
        """The headers that have the request's id, as they go over the wire."""
        return b"x-request-id: %b\r\n" % request_id

    def limit_lines(self, verdict: Verdict) -> bytes:  # noqa: ARG002
        """The rate limit headers that clients of this format look for beside OpenAI's, as they go over the wire."""
        return b""

    def render(self, error: AppError, request_id: str) -> bytes:
        """An error as the body of an answer."""
        return body_of(error, request_id)

    def render_event(self, error: AppError, meter: StreamMeter | None, request_id: str) -> bytes:  # noqa: ARG002
        """An error as the last event of a stream; meter: of the events before it, None where there are none."""
        return event_of(error, request_id)


class WholeEndpoint(Endpoint[R]):
    """A format without streams and without a maximum of output: a request is sent on as it came."""

    def changes(self, request: R, bound: OutputBound, output_max: int | None) -> Changes:  # noqa: ARG002
        """None: there is nothing that a provider must be told."""
        return UNCHANGED

    def changed(self, body: bytes, request: R, changes: Changes) -> bytes:  # noqa: ARG002
        """The client's own bytes."""
        return body

    def meter(self, request: R, redactor: Redactor) -> StreamMeter:
        """Never asked: a request that cannot say `stream` has no stream."""
        raise NotImplementedError

    def ending(self, request: R, meter: StreamMeter, usage: Usage) -> bytes:
        """Never asked."""
        raise NotImplementedError

    def as_stream(self, body: bytes) -> bytes:
        """Never asked."""
        raise NotImplementedError

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """Never asked."""
        raise NotImplementedError
