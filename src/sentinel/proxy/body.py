"""Request bodies: bytes to what is decided on, and the few changes that a body may need.

The client's bytes are sent on as they are unless something must change; then every value that does not change keeps
its own bytes, for only the top level is taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from sentinel.error import AppError, InvalidJson, InvalidType, MissingParameter, RequestTooLarge, UnsupportedEncoding
from sentinel.proxy import content_coding
from sentinel.proxy.strict_json import MOST_DIGITS, EqualKeys, Shape, has_endless_number, refuse_equal_keys
from sentinel.tokens.request import ChatRequest, CompletionRequest

Body = ChatRequest | CompletionRequest
T = TypeVar("T")

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything = msgspec.json.Decoder(msgspec.Raw)
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")
_WHITE_SPACE = b" \t\r\n"
_MOST_NAMED = 96
"""Characters of a client's key in a message of ours."""

# The objects that are decided on, in tokens/request.py and where it is counted; a list is looked at item by item.
_MESSAGE: Shape = {
    "content": {"image_url": {}, "input_audio": {}, "file": {}},
    "tool_calls": {"function": {}, "custom": {}},
    "function_call": {},
}
_CHAT_SHAPE: Shape = {
    "messages": _MESSAGE,
    "stream_options": {},
    "tools": {"function": {"parameters": None}, "custom": None},
    "functions": {"parameters": None},
    "tool_choice": None,
    "function_call": None,
    "response_format": None,
}
_COMPLETION_SHAPE: Shape = {"stream_options": {}}

_OURS = frozenset(("stream_options", "max_completion_tokens", "max_tokens"))
_ASK_USAGE = b'"stream_options":{"include_usage":true},'


def codings_of(headers: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The content codings of a request's body, mostly none. Raises UnsupportedEncoding."""
    value = headers.get(b"content-encoding")
    if value is None:
        return ()
    try:
        return content_coding.codings_of(value)
    except content_coding.UnknownCoding as error:
        raise UnsupportedEncoding(
            "The request body must be sent as it is, or in gzip, deflate, br or zstd.",
            param="content-encoding",
            headers=((b"accept-encoding", content_coding.ACCEPTED),),
        ) from error


def decoded(body: bytes, codings: tuple[str, ...], most_bytes: int) -> bytes:
    """The body without its content codings; not for the event loop. Raises InvalidJson, RequestTooLarge."""
    try:
        return content_coding.decode(body, codings, most_bytes)
    except content_coding.Undecodable as error:
        named = ", ".join(reversed(codings))
        raise InvalidJson(
            f"We could not decode the body of your request: it is not, or not wholly, in {named}, "
            "as its Content-Encoding header says.",
            param="content-encoding",
        ) from error
    except content_coding.Oversized as error:
        raise RequestTooLarge(f"Request body is larger, once decoded, than the limit of {most_bytes} bytes.") from error


def read_chat(body: bytes) -> ChatRequest:
    """The body of POST /v1/chat/completions. Raises InvalidJson, InvalidType, MissingParameter."""
    return _read(_chat, _CHAT_SHAPE, body)


def read_completion(body: bytes) -> CompletionRequest:
    """The body of POST /v1/completions. Raises InvalidJson, InvalidType, MissingParameter."""
    request = _read(_completion, _COMPLETION_SHAPE, body)
    if request.prompt is None:
        raise MissingParameter("Missing required parameter: 'prompt'.", param="prompt")
    return request


def _read(decoder: msgspec.json.Decoder[T], shape: Shape, body: bytes) -> T:
    try:
        # msgspec does not look at the text in fields that we do not need.
        if not body.isascii():
            body.decode()
        try:
            request = decoder.decode(body)
        except msgspec.ValidationError as error:
            # It stopped there; what follows may not even be JSON.
            _anything.decode(body)
            raise _misfit(str(error)) from error
        _refuse_ambiguity(body, shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJson("We could not parse the JSON body of your request.") from error
    return request


def _refuse_ambiguity(body: bytes, shape: Shape) -> None:
    """What we judge is what the provider obeys, so there must be one way to read it (DESIGN section 4)."""
    if has_endless_number(body):
        raise InvalidJson(f"The JSON body of your request has a number of more than {MOST_DIGITS} digits.")
    try:
        refuse_equal_keys(body.strip(_WHITE_SPACE), shape)
    except EqualKeys as error:
        key = error.key[:_MOST_NAMED]
        param = f"{error.path}.{key}" if error.path else key
        raise InvalidJson(f"The JSON body of your request has '{param}' twice.", param=param) from error


def _misfit(text: str) -> AppError:
    """What msgspec says of JSON that does not fit, as an error of ours."""
    path = found["path"] if (found := _PATH.search(text)) else ""
    if missing := _MISSING.search(text):
        param = f"{path}.{missing['field']}" if path else missing["field"]
        return MissingParameter(f"Missing required parameter: '{param}'.", param=param)
    reason = _PATH.sub("", text)
    param = path or None
    return InvalidType(f"Invalid type for '{param or 'body'}': {reason}.", param=param)


def forget_prompt(request: Body) -> None:
    """Free what was read to be counted; all that is decided later, and the bytes that are sent on, stay."""
    if isinstance(request, CompletionRequest):
        request.prompt = request.suffix = None
        return
    request.messages = []
    request.tools = request.functions = None
    # The others hold on to the bytes of the body.
    request.tool_choice = request.function_call = request.response_format = msgspec.Raw()


def asks_usage(request: Body) -> bool:
    """Whether the client wants the usage chunk of its stream."""
    return bool(request.stream_options and request.stream_options.include_usage)


def choices_of(request: Body) -> int:
    """How many answers the provider will generate, and bill."""
    n = request.n or 1
    return max(n, request.best_of or 1) if isinstance(request, CompletionRequest) else n


def client_max(request: Body) -> int | None:
    """The client's own bound on the output tokens of one choice, None where it gave none.

    Of two bounds the larger: which of them a provider obeys is its own affair.
    """
    one = request.max_tokens
    other = request.max_completion_tokens if isinstance(request, ChatRequest) else None
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def _bounds(request: Body) -> dict[str, int]:
    named = {"max_tokens": request.max_tokens}
    if isinstance(request, ChatRequest):
        named["max_completion_tokens"] = request.max_completion_tokens
    return {name: bound for name, bound in named.items() if bound is not None}


class Changes(msgspec.Struct, frozen=True, gc=False):
    """What the provider must be told. output_max: tokens of one choice, None = leave it.

    output_field: what a maximum is called where the client gave none. left_out: fields of ours that were refused.
    """

    ask_usage: bool = False
    output_max: int | None = None
    output_field: str = "max_tokens"
    left_out: tuple[str, ...] = ()


def changed(body: bytes, request: Body, changes: Changes) -> bytes:
    """The body with these changes; the client's own bytes where there are none."""
    if not changes.ask_usage and changes.output_max is None:
        return body
    has_options = request.stream_options is not None
    if not (changes.ask_usage and has_options) and (changes.output_max is None or client_max(request) is None):
        return _with_more(body, changes)
    bounds = _bounds(request)
    fields: dict[str, Any] = dict(_top_level.decode(body))
    if changes.ask_usage:
        options: dict[str, Any] = dict(_top_level.decode(fields["stream_options"])) if has_options else {}
        fields["stream_options"] = {**options, "include_usage": True}
    if changes.output_max is not None:
        lowered = {name: min(bound, changes.output_max) for name, bound in bounds.items()}
        fields |= lowered or {changes.output_field: changes.output_max}
    return msgspec.json.encode(fields)


def _with_more(body: bytes, changes: Changes) -> bytes:
    """The body with fields added at its end: nothing is parsed, nothing of the client's is touched.

    A body that has such a field, as null or in escapes, is taken apart instead: nobody shall read two of one name.
    """
    more, there = b"", False
    if changes.ask_usage:
        more, there = _ASK_USAGE, b'"stream_options"' in body
    if changes.output_max is not None:
        name = b'"%b"' % changes.output_field.encode()
        more, there = b"%b%b:%d," % (more, name, changes.output_max), there or name in body
    if there or (b"\\u00" in body and not _OURS.isdisjoint(_top_level.decode(body))):
        fields: dict[str, Any] = dict(_top_level.decode(body))
        fields.update(msgspec.json.decode(b"{" + more[:-1] + b"}"))
        return msgspec.json.encode(fields)
    return b"%b,%b}" % (body.rstrip(_WHITE_SPACE)[:-1], more[:-1])
