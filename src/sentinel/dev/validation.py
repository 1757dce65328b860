"""What OpenAI refuses with 400 or 404, in OpenAI's words, as far as Sentinel's users run into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_NUMBERS = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
_COUNTS = ("max_tokens", "max_completion_tokens", "n")
_MAX_CHOICES = 128

JSON_FORMS = ("json_object", "json_schema")
"""The response formats that ask for JSON."""


class Refused(Exception):
    """An answer that is an error: OpenAI's four fields and the status. The message is OpenAI's, too.

    body: in OpenAI's shape.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.body = error_body(message, kind=kind, param=param, code=code)


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> bytes:
    """An error in OpenAI's shape."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def trouble_of(status: int) -> Refused:
    """The error that OpenAI sends with a status of its own making, such as 429 or 503."""
    match status:
        case 429:
            message = "Rate limit reached for requests in organization org-sim: Limit 500, Used 500, Requested 1."
            return Refused(status, message, kind="requests", code="rate_limit_exceeded")
        case 401:
            message = "Incorrect API key provided: sk-sim-****-key. Find yours at https://platform.openai.com/account."
            return Refused(status, message, code="invalid_api_key")
        case 403:
            message = "Country, region, or territory not supported"
            return Refused(status, message, code="unsupported_country_region_territory")
        case _ if status >= 500:
            message = "The server had an error while processing your request. Sorry about that!"
            return Refused(status, message, kind="server_error")
        case _:
            return Refused(status, "The simulator was told to refuse this request.")


def decode_body(raw: bytes) -> dict[str, Any]:
    """Decode a request body. Raises Refused."""
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError as cause:
        message = "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload."
        raise Refused(400, message) from cause
    if not isinstance(body, dict):
        raise Refused(400, "Invalid body: expected an object.", code="invalid_type")
    return body


def check_common(body: dict[str, Any], models: frozenset[str]) -> None:
    """Check what chat and legacy completions share. Raises Refused."""
    model = body.get("model")
    if model is None:
        raise Refused(400, "you must provide a model parameter", param="model", code="missing_required_parameter")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    if model not in models:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise Refused(404, message, param="model", code="model_not_found")
    for name in ("stream",):
        if not isinstance(body.get(name), bool | None):
            raise wrong_type(name, "a boolean", body[name])
    if body.get("stream_options") is not None and not body.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(400, message, param="stream_options")
    _check_numbers(body)


def check_chat(body: dict[str, Any]) -> None:
    """Check the rest of a chat request. Raises Refused."""
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        raise Refused(400, message, param="messages", code="empty_array")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    _check_tools(body)
    _check_response_format(body)
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise Refused(400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")


def check_completion(body: dict[str, Any]) -> None:
    """Check the rest of a legacy completion request. Raises Refused."""
    prompt = body.get("prompt")
    if prompt is None:
        raise missing("prompt")
    if not isinstance(prompt, str | list):
        raise wrong_type("prompt", "a string or an array", prompt)


def check_embedding(body: dict[str, Any], models: Collection[str]) -> None:
    """Check the rest of an embedding request. models: that make embeddings. Raises Refused."""
    given = body.get("input")
    if given is None:
        raise missing("input")
    if not isinstance(given, str | list):
        raise wrong_type("input", "a string or an array", given)
    if not given:
        raise Refused(400, "'input' cannot be an empty string or array.", param="input")
    if body["model"] not in models:
        raise Refused(403, "You are not allowed to generate embeddings from this model", param="model")
    if body.get("encoding_format") not in {None, "float", "base64"}:
        text = "Invalid value for 'encoding_format': expected 'float' or 'base64'."
        raise Refused(400, text, param="encoding_format", code="invalid_value")


def _check_message(message: Any, place: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(place, "an object", message)
    role = message.get("role")
    if role is None:
        raise missing(f"{place}.role")
    if role not in _ROLES:
        names = ", ".join(f"'{name}'" for name in sorted(_ROLES))
        text = f"Invalid value: '{role}'. Supported values are: {names}."
        raise Refused(400, text, param=f"{place}.role", code="invalid_value")
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise wrong_type(f"{place}.content", "a string or an array", content)
    if content is None and role != "assistant":
        raise missing(f"{place}.content")


def tools_of(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each tool, and where it is. Raises Refused."""
    tools = body.get("tools")
    if not isinstance(tools, list | None):
        raise wrong_type("tools", "an array of objects", tools)
    for index, tool in enumerate(tools or []):
        if not isinstance(tool, dict):
            raise wrong_type(f"tools[{index}]", "an object", tool)
        yield f"tools[{index}]", tool


def _check_tools(body: dict[str, Any]) -> None:
    for place, tool in tools_of(body):
        if tool.get("type") == "custom":
            continue
        function = tool.get("function")
        if not isinstance(function, dict):
            raise missing(f"{place}.function")
        if not isinstance(function.get("name"), str):
            raise missing(f"{place}.function.name")
        if not isinstance(function.get("parameters"), dict | None):
            raise wrong_type(f"{place}.function.parameters", "an object", function["parameters"])
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and not isinstance(choice.get("function"), dict):
        raise missing("tool_choice.function")


def _check_response_format(body: dict[str, Any]) -> None:
    form = body.get("response_format")
    if form is None:
        return
    if not isinstance(form, dict):
        raise wrong_type("response_format", "an object", form)
    kind = form.get("type")
    if kind not in {"text", *JSON_FORMS}:
        message = f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'."
        raise Refused(400, message, param="response_format.type", code="invalid_value")
    if kind == "json_object" and b"json" not in msgspec.json.encode(body["messages"]).lower():
        message = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        )
        raise Refused(400, message, param="messages")
    if kind == "json_schema":
        described = form.get("json_schema")
        if not isinstance(described, dict):
            raise missing("response_format.json_schema")
        if not isinstance(described.get("name"), str):
            raise missing("response_format.json_schema.name")


def unfit_schema(body: dict[str, Any], tool: dict[str, Any] | None, reason: str) -> Refused:
    """The refusal of a schema that no value fits: of this tool's, else of the response format's."""
    if tool is not None:
        message = f"Invalid schema for function '{tool['function']['name']}': {reason}."
        param = f"tools[{body['tools'].index(tool)}].function.parameters"
        return Refused(400, message, param=param, code="invalid_function_parameters")
    name = body["response_format"]["json_schema"]["name"]
    return Refused(400, f"Invalid schema for response_format '{name}': {reason}.", param="response_format")


def _check_numbers(body: dict[str, Any]) -> None:
    for name in _COUNTS:
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not int:
            raise wrong_type(name, "an integer", value)
        if value < 1:
            raise out_of_range(name, "integer", "below minimum", f">= 1, but got {value} instead")
        if name == "n" and value > _MAX_CHOICES:
            raise out_of_range(name, "integer", "above maximum", f"<= {_MAX_CHOICES}, but got {value} instead")
    for name, (low, high) in _NUMBERS.items():
        value = body.get(name)
        if value is None:
            continue
        if type(value) not in {int, float}:
            raise wrong_type(name, "a decimal", value)
        if not low <= value <= high:
            side, bound = ("below minimum", f">= {low}") if value < low else ("above maximum", f"<= {high}")
            raise out_of_range(name, "decimal", side, f"{bound}, but got {value} instead")


def missing(param: str) -> Refused:
    """The refusal of a request without this field."""
    return Refused(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def wrong_type(param: str, expected: str, value: Any) -> Refused:
    """The refusal of a value of another type. expected: such as `a string`."""
    message = f"Invalid type for '{param}': expected {expected}, but got {type(value).__name__} instead."
    return Refused(400, message, param=param, code="invalid_type")


def out_of_range(param: str, kind: str, side: str, bound: str) -> Refused:
    """The refusal of a number. side: `below minimum` or `above maximum`."""
    code = f"{kind}_{side.replace(' ', '_')}_value"
    return Refused(400, f"Invalid '{param}': {kind} {side} value. Expected a value {bound}.", param=param, code=code)
