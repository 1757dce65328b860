"""What Gemini's formats have in common: the model in the path, how a request is read, errors, names of objects.

An endpoint of these is made for each request, for what it is to do stands in the path and the query beside the body.
Source: Google's API reference; google.rpc.Code and google/rpc/error_details.proto for errors.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final
from urllib.parse import quote, urlsplit

import msgspec

from sentinel.endpoints.endpoint import Endpoint, R
from sentinel.endpoints.named_models import NamedModels
from sentinel.endpoints.references import Reference, ReferenceFields
from sentinel.endpoints.strict_json import Shape
from sentinel.error import AppError, InvalidType, ModelNotFound, whole_seconds
from sentinel.proxy.meter import StreamMeter
from sentinel.tokens.gemini_request import CountBody, EmbedBody, GenerateBody

BETA, STABLE = "v1beta", "v1"
"""The versions of Google's API: each begins the paths of its own, here and at a provider."""

_INNER: Final[dict[str, Shape]] = {"inlineData": {}, "inline_data": {}, "fileData": {}, "file_data": {}}
_RESPONSE: Shape = {"parts": _INNER}
_PART: Shape = {**_INNER, "functionResponse": _RESPONSE, "function_response": _RESPONSE}
CONTENT: Shape = {"parts": _PART}
_CONFIG: Shape = {"thinkingConfig": {}, "thinking_config": {}}
GENERATE: Final[dict[str, Shape]] = {
    "contents": CONTENT,
    "systemInstruction": CONTENT,
    "system_instruction": CONTENT,
    "generationConfig": _CONFIG,
    "generation_config": _CONFIG,
}
"""The objects that are decided on, or counted by their fields (tokens/gemini.py)."""

_STATUSES: Final = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    504: "DEADLINE_EXCEEDED",
}
_TYPES: Final = "type.googleapis.com/google.rpc."
_DOMAIN: Final = "sentinel"

_MOST_NAME: Final = 256
"""As in bodies of other formats (tokens/request.py)."""
_TUNED, _MODELS = "tunedModels/", "models/"

_NAMED: Final = ("cachedContent", "cached_content")
_FILES: Final = ("fileUri", "file_uri")
_STORES: Final = ("fileSearchStoreNames", "file_search_store_names")
_DEFINED: Final = (
    *("args", "response", "responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"),
    *("parametersJsonSchema", "parameters_json_schema"),
)
_PROVIDERS_OWN: Final = (".googleapis.com", ".google.com")
"""Whoever asks for what lies there may be asked for a key."""


class GeminiReferences(ReferenceFields):
    """The fields that name objects. A file is named by `files/...`, or by an address that ends so; others are no id."""

    def __init__(self) -> None:
        fields = {
            **dict.fromkeys(_NAMED, "cachedContents"),
            **dict.fromkeys(_FILES, "files"),
            **dict.fromkeys(_STORES, "fileSearchStores"),
        }
        super().__init__(fields, defined=_DEFINED)

    def found_in(self, body: bytes) -> tuple[Reference, ...]:
        """What a request refers to. Raises InvalidJson, InvalidType."""
        found = super().found_in(body)
        return tuple(_named(each) for each in found if not (each.kind == "files" and _is_public(each.id)))


def _is_public(uri: str) -> bool:
    """Whether this is the address of something that anybody can have, and no provider keeps: a video, a picture."""
    try:
        address = urlsplit(uri)
        host = f".{address.hostname}".rstrip(".")
    except ValueError:
        return False
    is_web = address.scheme.lower() in ("http", "https")
    return is_web and "/files/" not in f"{address.path}/".lower() and not host.endswith(_PROVIDERS_OWN)


def _named(reference: Reference) -> Reference:
    """The same by the name that a file has, whatever address it is named by."""
    before, slash, name = reference.id.rpartition("/files/")
    return reference._replace(id=f"files/{name}") if reference.kind == "files" and slash and before else reference


def error_of(error: AppError, request_id: str) -> dict[str, Any]:
    """The error in Google's shape; what machines read of it stands in its details."""
    metadata = {name: str(value) for name, value in (error.details or {}).items() if value is not None}
    info = {"@type": f"{_TYPES}ErrorInfo", "reason": error.code.upper(), "domain": _DOMAIN, "metadata": metadata}
    details: list[dict[str, Any]] = [info]
    if error.param is not None:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": f"{_TYPES}BadRequest", "fieldViolations": [violation]})
    if error.retry_after_seconds is not None:
        seconds = whole_seconds(error.retry_after_seconds)
        details.append({"@type": f"{_TYPES}RetryInfo", "retryDelay": f"{seconds}s"})
    if request_id:
        details.append({"@type": f"{_TYPES}RequestInfo", "requestId": request_id})
    fields = {"code": error.status, "message": error.message, "status": status_word(error.status), "details": details}
    return {"error": fields}


def status_word(status: int) -> str:
    """Google's word for an HTTP status."""
    return _STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "UNAVAILABLE")


def render(error: AppError, request_id: str) -> bytes:
    """An error as the body of an answer."""
    return msgspec.json.encode(error_of(error, request_id))


def model_of(name: str) -> str:
    """The model that a resource's name is about, such as `gemini-2.5-flash` of `models/gemini-2.5-flash`."""
    while name.startswith(_MODELS):
        name = name.removeprefix(_MODELS)
    return name


def is_model(name: str) -> bool:
    """Whether this can be asked for at the provider without becoming another path there."""
    segments = name.replace("\\", "/").split("/")
    return len(name) <= _MOST_NAME and name.isprintable() and all(part.strip(".") for part in segments)


class GeminiEndpoint(Endpoint[R]):
    """A format of Gemini's. version: of the path; resource: what it names, such as `models/gemini-2.5-flash`, decoded.

    query: of the request's target. method: what stands behind the colon of a path.
    """

    format = "gemini"
    method: ClassVar[str]
    ids = GeminiReferences()
    names_model_in_path = True
    models = (
        ("model",), ("requests", "model"), ("generateContentRequest", "model"), ("generate_content_request", "model")
    )  # fmt: skip
    comment: ClassVar[bytes] = b"\n"
    """Google's SDKs take a comment for data, and mind no blank line."""

    def __init__(self, version: str, resource: str, query: bytes = b"") -> None:
        self.model = model_of(resource)
        self.alternative = _last(query, b"alt")
        self.route = self.route_of(version)
        self._version = version
        self.path = self.path_of(self.model)

    @classmethod
    def route_of(cls, version: str) -> str:
        """The path here, of any model."""
        return f"/{version}/{_MODELS}{{model}}:{cls.method}"

    def path_of(self, model: str) -> bytes:
        """The path at a provider that calls the model so."""
        tuned = model.startswith(_TUNED)
        name = quote(model.removeprefix(_TUNED) if tuned else model, safe="", errors="replace")
        return f"/{self._version}/{_TUNED if tuned else _MODELS}{name}:{self.method}".encode()

    def renamed(self, name: str, before: str, after: str) -> str:  # noqa: ARG002 (a body names none but that of the path)
        """The resource of the provider's model, where a body names one."""
        return after if after.startswith(_TUNED) or not name.startswith(_MODELS) else f"{_MODELS}{after}"

    def check(self, body: GenerateBody | CountBody | EmbedBody, param: str = "model") -> None:
        """Raises what is wrong with the path, the query, or the model that a body names beside that of the path."""
        if not is_model(self.model):
            raise ModelNotFound(f"The model '{self.model[:96]}' does not exist.", param="model")
        self.check_alternative()
        if body.model and model_of(body.model) != self.model:
            raise InvalidType(f"Invalid value for '{param}': it is not the model of the path.", param=param)

    def check_alternative(self) -> None:
        """Raises InvalidType for a form of the answer that cannot be read here."""
        if self.alternative not in (b"", b"json"):
            raise InvalidType("Invalid value for 'alt': this path answers in JSON.", param="alt")

    def named_models(self, request: R, body: bytes) -> NamedModels:  # noqa: ARG002
        """That of the path: a body names no other."""
        return {self.model: "model"}

    def render(self, error: AppError, request_id: str) -> bytes:
        """An error as the body of an answer."""
        return render(error, request_id)

    def render_event(self, error: AppError, meter: StreamMeter | None, request_id: str) -> bytes:  # noqa: ARG002
        """An error as the last event of a stream."""
        return b"data: %b\n\n" % render(error, request_id)


def _last(query: bytes, name: bytes) -> bytes:
    """The last value of a parameter; empty where it is absent."""
    values = [value for each, _, value in (pair.partition(b"=") for pair in query.split(b"&")) if each == name]
    return values[-1].lower() if values else b""
