from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.bpe import count_for
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.request import ChatRequest, Function
from sentinel.tokens.tools import _as_json, definitions_text

STRING: dict[str, Any] = {"type": "string"}
HELLO = [{"role": "user", "content": "hello"}]
WEATHER_CHAT = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]


def function(
    name: str, properties: dict[str, Any], description: str | None = None, required: Any = ()
) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "parameters": schema, "description": description}


NESTED = {
    "foo": {"type": "object", "properties": {"bar": {**STRING, "enum": ["a", "b", "c"]}, "baz": {"type": "boolean"}}}
}
INGREDIENT = {
    "name": STRING,
    "unit": {**STRING, "enum": ["grams", "ml", "cups", "pieces", "teaspoons"]},
    "amount": {"type": "number"},
}
RECIPE = {
    "ingredients": {
        "type": "array",
        "items": {"type": "object", "required": ["name", "unit", "amount"], "properties": INGREDIENT},
    },
    "instructions": {"type": "array", "items": STRING, "description": "Steps to prepare the recipe (no numbering)"},
    "time_to_cook": {"type": "number", "description": "Total time to prepare the recipe in minutes"},
}
UNIT = {**STRING, "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]}
PLACE = {**STRING, "description": "The city and state, e.g. San Francisco, CA"}
WEATHER = function(
    "get_current_weather",
    {"location": PLACE, "unit": UNIT},
    "Get the current weather in a given location",
    ["location"],
)
STUFF = function("do_stuff", {})
BING = "Do a bing bong"

# What OpenAI billed. Sources: github.com/hmarr/openai-chat-tokens, tests/token-counts.test.ts (gpt-3.5-turbo), and the
# output of OpenAI's cookbook "How to count tokens with tiktoken", section 7 (the weather).
BILLS = [
    ("gpt-3.5-turbo", HELLO, function("foo", {}), 31),
    ("gpt-3.5-turbo", HELLO, function("foo", {}, "Do a foo"), 36),
    ("gpt-3.5-turbo", HELLO, function("bing_bong", {"foo": STRING}, BING), 49),
    (
        "gpt-3.5-turbo",
        HELLO,
        function("bing_bong", {"foo": STRING, "bar": {"type": "number", "description": "A number"}}, BING),
        57,
    ),
    ("gpt-3.5-turbo", HELLO, function("bing_bong", NESTED, BING), 68),
    (
        "gpt-3.5-turbo",
        HELLO,
        function("get_recipe", RECIPE, None, ["ingredients", "instructions", "time_to_cook"]),
        106,
    ),
    ("gpt-3.5-turbo", [{"role": "system", "content": "Hello"}, {"role": "user", "content": "Hi there"}], STUFF, 35),
    ("gpt-3.5-turbo", [{"role": "system", "content": "Hello:"}, {"role": "user", "content": "Hi there"}], STUFF, 35),
    ("gpt-4", WEATHER_CHAT, WEATHER, 105),
    ("gpt-3.5-turbo", WEATHER_CHAT, WEATHER, 105),
    ("gpt-4o", WEATHER_CHAT, WEATHER, 101),
    ("gpt-4o-mini", WEATHER_CHAT, WEATHER, 101),
]


def bill(model: str, messages: Any, **more: Any) -> int:
    body = msgspec.json.encode({"model": model, "messages": messages, **more})
    request = msgspec.json.decode(body, type=ChatRequest)
    return TokenCounter().count_chat(request, model)


@pytest.mark.parametrize(("model", "messages", "definition", "tokens"), BILLS)
def test_definitions_cost_what_was_billed(model: str, messages: Any, definition: Any, tokens: int) -> None:
    """Tools and legacy functions cost the same, and exactly what OpenAI billed for them."""
    assert bill(model, messages, tools=[{"type": "function", "function": definition}]) == tokens
    assert bill(model, messages, functions=[definition]) == tokens


CALL = {"function": {"name": "calculator", "arguments": '{"a":2, "b":2}'}}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "4"}


@pytest.mark.parametrize(("calls", "tokens"), [(1, 40), (2, 89), (3, 114), (4, 139)])
def test_calls_in_the_history_cost_what_was_billed(calls: int, tokens: int) -> None:
    """One call, and several in parallel with their results. Source: community.openai.com/t/538914."""
    messages = [
        {"role": "user", "content": "How much is 2 plus 2?"},
        {"role": "assistant", "tool_calls": [CALL] * calls},
    ]
    assert bill("gpt-3.5-turbo", messages + [RESULT] * calls) == tokens


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        (
            {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "do_stuff", "arguments": '{"foo": "bar", "baz": 1.5}'},
            },
            26,
        ),
        (
            {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "do_stuff", "arguments": '{"foo":"bar", "baz":\n\n 1.5}'},
            },
            25,
        ),
        ({"role": "function", "name": "dance_the_tango", "content": '{"a": { "b" : { "c": false}}}'}, 24),
    ],
)
def test_legacy_calls_cost_what_was_billed(message: Any, tokens: int) -> None:
    """Source: github.com/hmarr/openai-chat-tokens, tests/token-counts.test.ts."""
    assert bill("gpt-3.5-turbo", [message]) == tokens


def test_a_choice_among_tools_costs_its_name() -> None:
    """`none` costs one token, a named function four and its name, `auto` nothing."""
    tools = [{"type": "function", "function": WEATHER}]
    plain = bill("gpt-4o", HELLO, tools=tools)
    named = {"type": "function", "function": {"name": "get_current_weather"}}
    assert bill("gpt-4o", HELLO, tools=tools, tool_choice="auto") == plain
    assert bill("gpt-4o", HELLO, tools=tools, tool_choice="none") == plain + 1
    assert bill("gpt-4o", HELLO, tools=tools, tool_choice=named) == plain + 4 + count_for("gpt-4o")(
        "get_current_weather"
    )


def test_a_response_schema_is_counted() -> None:
    """A schema is part of the prompt; plain text and JSON mode are free."""
    plain = bill("gpt-4o", HELLO)
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": WEATHER["parameters"]}}
    assert bill("gpt-4o", HELLO, response_format={"type": "json_object"}) == plain
    assert bill("gpt-4o", HELLO, response_format=schema) > plain + 40


def test_custom_tools_are_counted() -> None:
    """A tool that is no function counts by its JSON."""
    tools = [{"type": "custom", "custom": {"name": "sql", "description": "Runs a query"}}]
    assert bill("gpt-5", HELLO, tools=tools) > bill("gpt-5", HELLO) + 9


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["object", "array", "string", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "enum", "anyOf", "required", "description", "a"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(schema=json_values, choice=json_values, response_format=json_values)
def test_no_schema_raises(schema: Any, choice: Any, response_format: Any) -> None:
    """Whatever JSON a client sends for a schema, it is counted somehow; the provider judges it."""
    tools = [{"function": {"name": "f", "parameters": schema}}]
    assert bill("gpt-4o", HELLO, tools=tools, tool_choice=choice, response_format=response_format) > 0


def _function(properties: dict[str, Any]) -> Function:
    return Function(name="f", parameters=msgspec.Raw(msgspec.json.encode({"properties": properties})))


@pytest.mark.parametrize("key", ["items", "properties"])
def test_a_deep_schema_raises_nothing(key: str) -> None:
    """A schema nested beyond reason is counted as JSON, without recursion to the end of the stack."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(150):
        schema = (
            {"type": "array", "items": schema} if key == "items" else {"type": "object", "properties": {"a": schema}}
        )
    assert "string" in definitions_text([_function({"a": schema})])


def test_repeated_kinds_do_not_multiply() -> None:
    """A schema that names its kind a thousand times is written once per kind."""
    schema = {"type": ["object"] * 1_000, "properties": {f"p{n}": STRING for n in range(100)}}
    assert len(definitions_text([_function({"a": schema})])) < 5_000


def test_what_is_too_large_is_counted_as_the_json_it_is() -> None:
    """It is not touched at all: not for its layout, and not for the white space and the escapes in it."""
    many = {f"p{n}": {"type": "string", "description": "\\u00e9 " * 10} for n in range(5_000)}
    text = msgspec.json.encode({"type": "object", "properties": many}).decode()
    assert len(text) > 150_000
    spaced = text.replace(":", ": ").replace("\\\\u00e9", "\\u00e9")
    count = count_for("gpt-4o")
    for body in (
        b'"tools":[{"function":{"name":"f","parameters":%b}}]',
        b'"tools":[{"type":"custom","custom":%b}]',
        b'"response_format":{"type":"json_schema","json_schema":{"schema":%b}}',
    ):
        request = msgspec.json.decode(
            b'{"model":"gpt-4o","messages":[],%b}' % (body % spaced.encode()), type=ChatRequest
        )
        assert 0 <= TokenCounter().count_chat(request, "gpt-4o") - count(spaced) < 50


def test_any_depth_is_counted_somehow() -> None:
    """Up to the end of what can be read at all, and beyond."""
    for depth in [*range(10, 1_100, 7), 10_000]:
        raw = msgspec.Raw(b'{"properties":{"a":' + b'{"items":' * depth + b"1" + b"}" * depth + b"}}")
        assert definitions_text([Function(name="f", parameters=raw)])


@pytest.mark.parametrize("key", ["anyOf", "oneOf"])
def test_a_choice_of_types_is_written_as_one(key: str) -> None:
    """As TypeScript writes unions."""
    text = definitions_text([_function({"a": {key: [STRING, {"type": "number"}, {"type": "null"}]}})])
    assert "a?: string | number | null,\n" in text


def test_what_a_choice_costs() -> None:
    """Nothing, unless it is known to: one token for none, four and its name for a function, in both forms."""
    tools = [{"type": "function", "function": BILLS[0][2]}]
    plain = bill("gpt-4o", HELLO, tools=tools)

    def cost(**choice: Any) -> int:
        return bill("gpt-4o", HELLO, tools=tools, **choice) - plain

    named = {"type": "function", "function": {"name": "get_current_weather"}}
    name = count_for("gpt-4o")("get_current_weather")
    assert cost(tool_choice="auto") == 0
    assert cost(tool_choice="none") == 1
    assert cost(tool_choice=named) == 4 + name
    assert cost(function_call={"name": "get_current_weather"}) == 4 + name
    assert cost(tool_choice={"type": "allowed_tools"}) == 0
    assert cost(tool_choice={"function": 7}) == 0
    assert cost(tool_choice="x" * 200_000) == 0


def test_a_tool_of_a_kind_that_we_do_not_know_costs_nothing() -> None:
    """Nor does a choice among such tools: it is not known what the model is shown of them."""
    assert bill("gpt-4o", HELLO, tools=[{"type": "web_search"}], tool_choice="none") == bill("gpt-4o", HELLO)


def test_calls_cost_their_names_and_arguments() -> None:
    """Of functions and of custom tools alike; several in one message have a frame of their own."""
    count = count_for("gpt-4o")

    def cost(*calls: dict[str, Any]) -> int:
        history = [{"role": "assistant", "content": None, "tool_calls": list(calls)}]
        return bill("gpt-4o", history) - bill("gpt-4o", [{"role": "assistant", "content": None}])

    function_call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"x"}'}}
    custom_call = {"id": "c2", "type": "custom", "custom": {"name": "look", "input": '{"at":"x"}'}}
    frame = cost({"id": "c3", "type": "function"})
    words = count("look") + count('{"at":"x"}')
    assert cost(function_call) == cost(custom_call) == frame + words
    assert cost(function_call, custom_call) > 2 * words + 2 * frame


def test_what_cannot_be_written_costs_nothing() -> None:
    """JSON that was read just so may be nested too deeply to be written."""
    value: Any = {}
    for _ in range(200_000):
        value = {"a": value}
    assert _as_json(value) == ""
