"""A chat request in Gemini's format.

Source: Google's API reference, "GenerateContent"; its guides "Function calling", "Thinking", "Thought signatures",
"Structured outputs".
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Raw

from sentinel.endpoints.gemini import is_model, model_of
from sentinel.endpoints.generate_content import GenerateContentEndpoint, StreamGenerateContentEndpoint
from sentinel.error import ModelNotFound
from sentinel.proxy.translation import chat_of_gemini
from sentinel.proxy.translation.chat_request import (
    Assistant,
    Call,
    ChatRequest,
    Developer,
    File,
    FunctionTool,
    Image,
    Message,
    NamedChoice,
    ObjectFormat,
    SchemaFormat,
    System,
    Text,
    TextFormat,
    Tool,
    data_url,
    web_url,
)
from sentinel.proxy.translation.pair import StreamTranslator, Translation
from sentinel.proxy.translation.strict import given, object_of, read, unsupported

_VERSION: Final = "v1beta"
_JSON: Final = "application/json"
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_PICTURES: Final = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "heic": "image/heic",
}  # fmt: skip
"""What Google takes by address, which it wants the type of; an address shows it by its end."""

_OF_BUDGETS: Final = "gemini-2.5"
_BUDGETS: Final = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
"""Tokens, as Google's own door for chat has them for models before Gemini 3."""
_WITHOUT_SIGNATURES: Final = ("gemini-1", "gemini-2")
"""Models from Gemini 3 on refuse calls without one; whose name has no number is such a model, too."""
_NO_SIGNATURE: Final = "skip_thought_signature_validator"
"""What Google takes in place of one, for calls of which nobody has it."""
_LEVELS: Final = ("minimal", "low", "medium", "high", "xhigh")


class _Request(ChatRequest, kw_only=True):
    """What Gemini's format can be asked beside what all can."""

    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    service_tier: Literal["auto", "default"] | None = None


_decoder = msgspec.json.Decoder(_Request)


class ChatToGemini(Translation):
    """A client that speaks chat, a provider that speaks Gemini's format. Its path begins with the version."""

    def __init__(self, body: bytes, now_seconds: int) -> None:
        request = read(_decoder, body)
        if not is_model(request.model):
            raise ModelNotFound(f"The model '{request.model[:96]}' does not exist.", param="model")
        endpoint = StreamGenerateContentEndpoint if request.stream else GenerateContentEndpoint
        self.path = endpoint(_VERSION, request.model, b"alt=sse" if request.stream else b"").path
        self.body = msgspec.json.encode(_translated(request))
        self._created = now_seconds
        self._wants_usage = request.wants_usage
        # Google cannot be told, so it is obeyed here: generation would have ended behind the first call.
        self._one_call = request.parallel_tool_calls is False

    def answer(self, status: int, body: bytes) -> bytes:
        """A whole answer, or an error, in chat's format. Raises UpstreamError for what cannot be read."""
        return chat_of_gemini.answer(status, body, self._created, one_call=self._one_call)

    def stream(self, counted_input: int = 0) -> StreamTranslator:  # noqa: ARG002
        """The translator of the answer's stream."""
        return chat_of_gemini.ChatOfGemini(self._created, wants_usage=self._wants_usage, one_call=self._one_call)


def _translated(request: _Request) -> dict[str, Any]:
    system, contents = _contents(request.messages)
    if not model_of(request.model).startswith(_WITHOUT_SIGNATURES):
        _sign(contents)
    out: dict[str, Any] = {
        "systemInstruction": {"parts": system} if system else None,
        "tools": [{"functionDeclarations": [_declaration(tool) for tool in request.tools]}] if request.tools else None,
        "toolConfig": _tool_config(request),
        "generationConfig": _config(request),
    }
    return {"contents": contents, **{name: value for name, value in out.items() if value}}


def _contents(messages: list[Message]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The system instruction, which stands before all turns, and the turns; those of one role in a row are one."""
    system: list[Any] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for position, message in enumerate(messages):
        path = f"messages[{position}]"
        if isinstance(message, System | Developer):
            if contents:
                raise unsupported(f"{path}.role")
            system += _texts(message.content)
            continue
        role, parts = _parts_of(message, path, names)
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return system, contents


def _sign(contents: list[dict[str, Any]]) -> None:
    """Say of calls that their signature is lost, for some clients of chat keep none; of each turn the first has it."""
    for content in contents:
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and not any("thoughtSignature" in call for call in calls):
            calls[0]["thoughtSignature"] = _NO_SIGNATURE


def _parts_of(message: Message, path: str, names: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
    """names: of the functions of all calls so far, by the calls' ids; a result must have its function's name."""
    if isinstance(message, Assistant):
        names |= {call.id: call.function.name for call in message.tool_calls or []}
        return "model", _of_assistant(message, path)
    if isinstance(message, Tool):
        name = names.get(message.tool_call_id, message.name)
        if name is None:
            raise unsupported(f"{path}.tool_call_id")
        output = "".join(part["text"] for part in _texts(message.content))
        response = {"id": message.tool_call_id, "name": name, "response": {"output": output}}
        return "user", [{"functionResponse": response}]
    assert not isinstance(message, System | Developer)
    if isinstance(message.content, str):
        return "user", _texts(message.content)
    parts = enumerate(message.content)
    return "user", [each for position, part in parts for each in _part(part, f"{path}.content[{position}]")]


def _of_assistant(message: Assistant, path: str) -> list[dict[str, Any]]:
    content = [Text(message.content)] if isinstance(message.content, str) else message.content or []
    texts = [part.text if isinstance(part, Text) else part.refusal for part in content]
    parts: list[dict[str, Any]] = [{"text": text} for text in (*texts, message.refusal) if text]
    calls = enumerate(message.tool_calls or [])
    return parts + [_call(call, f"{path}.tool_calls[{position}]") for position, call in calls]


def _call(call: Call, path: str) -> dict[str, Any]:
    arguments = object_of(call.function.arguments)
    if arguments is None:
        raise unsupported(f"{path}.function.arguments")
    part: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.function.name, "args": arguments}}
    if call.extra_content is not None:
        part["thoughtSignature"] = call.extra_content.google.thought_signature
    return part


def _texts(content: str | list[Text]) -> list[dict[str, Any]]:
    texts = [content] if isinstance(content, str) else [part.text for part in content]
    return [{"text": text} for text in texts if text]


def _part(part: Text | Image | File, path: str) -> list[dict[str, Any]]:
    """A part of a user's content; a file's name, which has no place beside the file, is said before it."""
    if isinstance(part, Text):
        return _texts([part])
    if isinstance(part, Image):
        return [_picture(part.image_url.url, f"{path}.image_url.url")]
    data = data_url(part.file.file_data)
    if data is None:
        raise unsupported(f"{path}.file.file_data")
    name = [] if part.file.filename is None else [{"text": f"{part.file.filename}:"}]
    return [*name, {"inlineData": {"mimeType": data[0], "data": data[1]}}]


def _picture(url: str, path: str) -> dict[str, Any]:
    data = data_url(url)
    if data is not None:
        return {"inlineData": {"mimeType": data[0], "data": data[1]}}
    try:
        end = urlsplit(web_url(url, path)).path.rpartition(".")[2].lower()
    except ValueError:
        end = ""
    if end not in _PICTURES:
        raise unsupported(path)
    return {"fileData": {"mimeType": _PICTURES[end], "fileUri": url}}


def _declaration(tool: FunctionTool) -> dict[str, Any]:
    function = tool.function
    out: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        out["description"] = function.description
    if given(function.parameters):
        out["parametersJsonSchema"] = function.parameters
    return out


def _tool_config(request: _Request) -> dict[str, Any] | None:
    """How functions may be called. With `VALIDATED` and with `ANY` arguments hold to their schema."""
    choice = request.tool_choice
    if isinstance(choice, NamedChoice):
        config: dict[str, Any] = {"mode": "ANY", "allowedFunctionNames": [choice.function.name]}
    elif choice in (None, "auto") and any(tool.function.strict for tool in request.tools or []):
        config = {"mode": "VALIDATED"}
    elif choice is None:
        return None
    else:
        config = {"mode": _MODES[choice]}
    return {"functionCallingConfig": config}


def _config(request: _Request) -> dict[str, Any]:
    wanted = request.response_format
    schema: Raw | None = wanted.json_schema.schema if isinstance(wanted, SchemaFormat) else None
    out: dict[str, Any] = {
        "maxOutputTokens": request.output_max,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": request.stops or None,
        "candidateCount": request.n,
        "seed": request.seed,
        "frequencyPenalty": request.frequency_penalty,
        "presencePenalty": request.presence_penalty,
        "responseMimeType": None if wanted is None or isinstance(wanted, TextFormat) else _JSON,
        "responseJsonSchema": schema,
        "thinkingConfig": _thinking(request),
    }
    return {name: value for name, value in out.items() if value is not None}


def _thinking(request: _Request) -> dict[str, Any] | None:
    effort = request.reasoning_effort
    if effort is None:
        return None
    if model_of(request.model).startswith(_OF_BUDGETS):
        if effort not in _BUDGETS:
            raise unsupported("reasoning_effort")
        return {"thinkingBudget": _BUDGETS[effort], "includeThoughts": effort != "none"}
    if effort not in _LEVELS:
        raise unsupported("reasoning_effort")
    return {"thinkingLevel": effort.upper(), "includeThoughts": True}
