"""What Google refuses of a request to Gemini's API, and what there is to be read of it.

Each field may be in camelCase or in snake_case, and one thing may stand for a list of them.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.directive import NONE, BadDirective, Directive, find_directive
from sentinel.dev.validation import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = frozenset(
    (
        *("cachedContent", "contents", "generationConfig", "labels", "model", "safetySettings", "serviceTier", "store"),
        *("systemInstruction", "toolConfig", "tools"),
    )
)
_DATA = frozenset(
    (
        *("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode"),
        "codeExecutionResult",
    )
)
_SNAKE = re.compile(r"_([a-z])")


def read(raw: bytes, method: str) -> tuple[dict[str, Any], Directive]:
    """The body of a request, in camelCase, and its directive. Raises Refused."""
    body = _decoded(raw)
    if method == "batchEmbedContents":
        requests = [_embedded(each) for each in body.get("requests") or []]
        if not requests:
            raise wrong("BatchEmbedContentsRequest.requests: must be non-empty")
        return {"requests": requests}, NONE
    if method == "embedContent":
        return _embedded(body), _directive([body["content"]])
    if method == "countTokens":
        body = body.get("generateContentRequest") or body
    unknown = sorted(body.keys() - _FIELDS)
    if unknown:
        raise wrong(f'Invalid JSON payload received. Unknown name "{unknown[0]}": Cannot find field.')
    _check(body)
    return body, _directive(body["contents"])


def texts(contents: list[Any]) -> list[str]:
    """All texts of these."""
    return [part["text"] for content in contents for part in content["parts"] if isinstance(part.get("text"), str)]


@contextlib.contextmanager
def refusing_odd_values() -> Iterator[None]:
    """Whatever has a shape that nobody has thought of is the caller's mistake, too."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise wrong("Invalid JSON payload received. Invalid value.") from cause


def wrong(message: str) -> Refused:
    """A refusal of what is wrong with a request."""
    return Refused(400, message)


def _directive(contents: list[Any]) -> Directive:
    """That of the last turn, if it is the user's."""
    last = contents[-1]
    said = texts([last]) if last.get("role", "user") == "user" else []
    try:
        return find_directive(said[-1] if said else "")
    except BadDirective as mistake:
        raise wrong(str(mistake)) from mistake


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError as cause:
        raise wrong("Invalid JSON payload received.") from cause
    if not isinstance(body, dict):
        raise wrong("Invalid JSON payload received. Expected an object.")
    decoded: dict[str, Any] = _camel(body)
    return decoded


_FREE = frozenset(("args", "response", "properties", "responseJsonSchema", "parametersJsonSchema"))
"""What is inside of these is the caller's own."""


def _camel(value: Any) -> Any:
    if isinstance(value, list):
        return [_camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    renamed = {_SNAKE.sub(lambda found: found[1].upper(), key): each for key, each in value.items()}
    return {key: each if key in _FREE else _camel(each) for key, each in renamed.items()}


def _check(body: dict[str, Any]) -> None:
    contents = body["contents"] = _listed(body.get("contents"))
    if not contents:
        raise wrong("* GenerateContentRequest.contents: contents is not specified")
    for content in contents:
        _check_content(content)
        if content.get("role", "user") not in ("user", "model", "function"):
            raise wrong("Please use a valid role: user, model.")
    if body.get("systemInstruction") is not None:
        _check_content(body["systemInstruction"])
    config = body.get("generationConfig") or {}
    most, candidates = config.get("maxOutputTokens"), config.get("candidateCount")
    if most is not None and (type(most) is not int or most < 1):
        raise wrong("max_output_tokens must be positive.")
    if candidates is not None and (type(candidates) is not int or not 1 <= candidates <= 8):
        raise wrong("The candidate count must be in the range [1, 8].")
    body["tools"] = _listed(body.get("tools"))


def _check_content(content: Any) -> None:
    if not isinstance(content, dict):
        raise wrong("Invalid value at 'contents' (type.googleapis.com/google.ai.generativelanguage.v1beta.Content)")
    parts = content["parts"] = _listed(content.get("parts"))
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise wrong("* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.")
    for part in parts:
        if len(_DATA & part.keys()) != 1:
            raise wrong("required oneof field 'data' must have one initialized field")


def check_signatures(contents: list[dict[str, Any]]) -> None:
    """Check that of each step of the current turn the first call is signed. Raises Refused."""
    asked = [index for index, each in enumerate(contents) if any("text" in part for part in _of_user(each))]
    for index, content in enumerate(contents):
        calls = [part for part in content["parts"] if "functionCall" in part]
        if index > max(asked, default=-1) and calls and not calls[0].get("thoughtSignature"):
            name = calls[0]["functionCall"].get("name")
            raise wrong(
                f"Function call is missing a thought_signature in functionCall parts. Function call `{name}`, "
                f"position {index}."
            )


def _of_user(content: dict[str, Any]) -> list[dict[str, Any]]:
    return content["parts"] if content.get("role", "user") == "user" else []


def _embedded(body: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(body.get("content"), dict):
        raise wrong("EmbedContentRequest.content: content is not specified")
    _check_content(body["content"])
    return body


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
