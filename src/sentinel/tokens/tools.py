"""Tools: what their definitions, calls and results add to a prompt.

OpenAI rewrites function definitions into TypeScript before the model sees them, and bills that text. The layout was
found out by hmarr (hmarr.com/blog/counting-openai-tokens, github.com/hmarr/openai-chat-tokens) and equals the bill in
all his measurements (nested ones, too) and in the worked example of OpenAI's cookbook "How to count tokens with
tiktoken" (105 tokens on gpt-4, 101 on gpt-4o). The cookbook's own `num_tokens_for_tools` misses five of these eight, so
we follow hmarr. tests/unit/tokens/test_tools.py holds them all.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sentinel.tokens.bpe import Count
from sentinel.tokens.request import ChatRequest, Function, Message, Tool, ToolCall

# Around the definitions, and what is saved where a system message exists already, in tokens (hmarr).
_DEFINITIONS_FRAME: Final = 9
_SHARED_SYSTEM_MESSAGE: Final = -4
# Around one call in an assistant message (hmarr).
_CALL_FRAME: Final = 3
# Several calls in one message are wrapped into `multi_tool_use.parallel`. Measured on bills of 40, 89 and 114 tokens
# for one, two and three calls (community.openai.com/t/538914).
_PARALLEL_FRAME: Final = 19
_PARALLEL_CALL_FRAME: Final = 8
# A client may nest a schema as deep as it likes; below this depth the JSON itself is counted. OpenAI allows 10.
_MAX_DEPTH: Final = 24
# What is larger is counted as the JSON it is: to take it apart could hold up all threads for over 5 ms. OpenAI's own
# bound for a schema is 120,000 characters of names and values, in 5,000 properties.
MOST_BYTES: Final = 150_000
_NOTHING: Final = (msgspec.Raw(), msgspec.Raw(b"null"))

_SCALARS: Final = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}
_KINDS: Final = frozenset(_SCALARS) | {"array", "object"}


def _as_json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:  # Nested as deep as Python can hold at all; the provider will refuse it.
        return ""


def _value(raw: msgspec.Raw) -> Any:
    """Read JSON, None where there is none. Raises ValueError for what is too large, too deep, or beyond all range."""
    if len(raw) > MOST_BYTES:
        raise ValueError("too large to be taken apart")
    try:
        return msgspec.json.decode(raw) if raw else None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not to be taken apart") from error


def json_text(raw: msgspec.Raw) -> str:
    """Return JSON untouched, but without white space unless it is too large or too deep for that, too."""
    text = bytes(raw)
    if len(text) <= MOST_BYTES:
        with contextlib.suppress(RecursionError):
            text = msgspec.json.format(text, indent=-1)
    return text.decode()


def _custom_text(raw: msgspec.Raw) -> str:
    try:
        return _as_json(_value(raw))
    except ValueError:
        return json_text(raw)


def _type(schema: object, indent: int, depth: int) -> str:
    """Write a JSON Schema as a TypeScript type. What has no TypeScript form is `any`."""
    if not isinstance(schema, dict):
        return "any"
    if depth > _MAX_DEPTH:
        return _as_json(schema)
    if isinstance(schema.get("enum"), list):
        return " | ".join(map(_as_json, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return " | ".join(_type(each, indent, depth + 1) for each in schema[key])
    kind = schema.get("type", "object" if "properties" in schema else None)
    kinds = kind if isinstance(kind, list) else [kind]
    # Each kind once: a client may repeat one a thousand times.
    names = dict.fromkeys(name for name in kinds if isinstance(name, str))
    return " | ".join(_kind(name, schema, indent, depth) for name in names if name in _KINDS) or "any"


def _kind(name: str, schema: dict[str, Any], indent: int, depth: int) -> str:
    if name == "array":
        return f"{_type(schema['items'], indent, depth + 1)}[]" if schema.get("items") else "any[]"
    if name == "object":
        return f"{{\n{_properties(schema, indent + 2, depth + 1)}\n}}"
    return _SCALARS[name]


def _properties(schema: dict[str, Any], indent: int, depth: int) -> str:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return ""
    names = set(filter(_is_text, required)) if isinstance(required, list) else set()
    spaces = " " * indent
    lines = []
    for name, each in properties.items():
        if isinstance(each, dict) and _is_text(each.get("description")):
            lines.append(f"{spaces}// {each['description']}")
        lines.append(f"{spaces}{name}{'' if name in names else '?'}: {_type(each, indent, depth)},")
    return "\n".join(lines)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _declaration(function: Function) -> str:
    comment = f"// {function.description}\n" if function.description else ""
    try:
        schema = _value(function.parameters)
    except ValueError:
        return f"{comment}type {function.name} = (_: {json_text(function.parameters)}) => any;\n"
    if isinstance(schema, dict) and schema.get("properties"):
        return f"{comment}type {function.name} = (_: {{\n{_properties(schema, 0, 0)}\n}}) => any;\n"
    return f"{comment}type {function.name} = () => any;\n"


def definitions_text(functions: Sequence[Function]) -> str:
    """Return the TypeScript text that OpenAI shows the model for these functions. Source: top of this file."""
    declarations = "\n".join(map(_declaration, functions))
    return f"namespace functions {{\n\n{declarations}\n}} // namespace functions"


def _functions(tools: Sequence[Tool]) -> list[Function]:
    return [tool.function for tool in tools if tool.function is not None]


def _choice_tokens(raw: msgspec.Raw, count: Count) -> int:
    """`none` costs 1, a named function 4 and its name, `auto` nothing (hmarr); of others nothing is known."""
    try:
        choice = _value(raw)
    except ValueError:
        return 0
    if choice == "none":
        return 1
    if isinstance(choice, dict):
        named = choice.get("function", choice)
        name = named.get("name") if isinstance(named, dict) else None
        return 4 + count(name) if isinstance(name, str) else 0
    return 0


def _system_tokens(messages: Sequence[Message], count: Count) -> int:
    """Return what a first system message changes: it is shared with the definitions and gains a line end (hmarr)."""
    for message in messages:
        if message.role in ("system", "developer"):
            text = message.content if isinstance(message.content, str) else ""
            return _SHARED_SYSTEM_MESSAGE + count(f"{text}\n") - count(text)
    return 0


def definition_tokens(request: ChatRequest, count: Count) -> int:
    """Return the input tokens of a request's tools or legacy functions, and of the choice among them."""
    functions = _functions(request.tools or []) + (request.functions or [])
    customs = [tool.custom for tool in request.tools or [] if tool.custom not in _NOTHING]
    if not functions and not customs:
        return 0
    tokens = _DEFINITIONS_FRAME + _system_tokens(request.messages, count)
    tokens += count(definitions_text(functions)) if functions else 0
    tokens += sum(count(_custom_text(custom)) for custom in customs)
    return tokens + _choice_tokens(request.tool_choice, count) + _choice_tokens(request.function_call, count)


def call_tokens(calls: Sequence[ToolCall], count: Count) -> int:
    """Return the input tokens of the calls in one assistant message of the history."""
    tokens = 0
    for call in calls:
        if call.function is not None:
            tokens += count(call.function.name or "") + count(call.function.arguments or "")
        if call.custom is not None:
            tokens += count(call.custom.name or "") + count(call.custom.input or "")
    if len(calls) > 1:
        return tokens + _PARALLEL_FRAME + _PARALLEL_CALL_FRAME * len(calls)
    return tokens + _CALL_FRAME * len(calls)


def response_format_tokens(raw: msgspec.Raw, count: Count) -> int:
    """Return the input tokens of a `json_schema` response format; other formats cost nothing.

    Source: OpenAI Harmony response format, section "Structured output" (cookbook.openai.com/articles/openai-harmony):
    `# Response Formats`, an empty line, `## name`, the description as a comment, the schema as JSON.
    """
    try:
        response_format = _value(raw)
    except ValueError:
        return count(json_text(raw))
    if not isinstance(response_format, dict):
        return 0
    schema = response_format.get("json_schema")
    if not isinstance(schema, dict):
        return 0
    description = f"// {schema['description']}\n" if _is_text(schema.get("description")) else ""
    body = _as_json(schema.get("schema"))
    return count(f"# Response Formats\n\n## {schema.get('name')}\n\n{description}{body}")
