"""What the simulator makes up fits the schema that it was asked for, as an independent validator judges.

About: `dev/pattern.py`.
"""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.dev.schema import Unfit, fitting

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["a", "b", "name", "ö", "x y", "a/b", "t~t"])
FORMATS = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
PATTERNS = (
    *("^[a-z]+$", r"^\d{3}-\d{4}$", "x", "^(cat|dog)s?$", "^[^0-9]{2,}$", r"[A-Z]{2}\w*", r"^\+?[1-9]\d{1,14}$", "^$"),
    *(r"^(?:a|b){2}\.c$", r"^(['\"])x\1$", r"^[\w.-]+@[\w-]+\.[a-z]{2,}$", r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"),
)


def is_fit(value: Any, schema: Any) -> bool:
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    assert [error.message for error in validator.iter_errors(value)] == []
    return True


def bounds(low: st.SearchStrategy[int], *, name: str = "") -> st.SearchStrategy[dict[str, int]]:
    """A minimum with or without a maximum that is not below it."""
    names = (f"min{name}", f"max{name}") if name else ("minimum", "maximum")
    both = st.tuples(low, st.integers(0, 9)).map(lambda pair: {names[0]: pair[0], names[1]: pair[0] + pair[1]})
    return st.just({}) | low.map(lambda least: {names[0]: least}) | low.map(lambda most: {names[1]: most}) | both


def kind(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A schema of one type, or of this one and null."""
    return st.fixed_dictionaries({"type": st.sampled_from([name, [name, "null"], ["null", name]])}, optional=fields)


integers = st.builds(
    dict.__or__,
    kind("integer", description=st.just("a number"), multipleOf=st.sampled_from([1, 2, 0.5])),
    bounds(st.integers(-50, 50)).filter(lambda found: len(found) < 2 or found["maximum"] - found["minimum"] > 1),
)
open_numbers = st.tuples(st.floats(-99, 99), st.floats(0.5, 9)).map(
    lambda pair: {"type": "number", "exclusiveMinimum": pair[0], "exclusiveMaximum": pair[0] + pair[1]}
)
numbers = st.builds(dict.__or__, kind("number"), bounds(st.integers(-50, 50))) | open_numbers
texts = (
    st.builds(dict.__or__, kind("string"), bounds(st.integers(0, 40), name="Length"))
    | kind("string", format=st.sampled_from(FORMATS))
    | kind("string", pattern=st.sampled_from(PATTERNS))
)
plain = st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True])
chosen = st.builds(lambda value: {"const": value}, JSON) | st.lists(JSON, min_size=1, max_size=3).map(
    lambda members: {"enum": members}
)
leaves = integers | numbers | texts | plain | chosen


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Lists of one kind, and tuples."""
    of_one = st.builds(dict.__or__, kind("array", items=inner), bounds(st.integers(0, 4), name="Items"))
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: {
            "type": "array",
            "prefixItems": parts,
            "items": False,
            "minItems": len(parts),
            "maxItems": len(parts),
        }
    )
    return of_one | tuples


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    """With and without fields that must be there, fields beside these, and bounds of their number."""
    properties = draw(st.dictionaries(NAMES, inner, max_size=3))
    schema: dict[str, Any] = {
        "type": draw(st.sampled_from(["object", ["object", "null"]])),
        "properties": properties,
        "required": draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else [],
    }
    others = draw(st.sampled_from([None, False, True]) | inner)
    if others is not None:
        schema["additionalProperties"] = others
    if others is not False and draw(st.booleans()):
        schema["minProperties"] = draw(st.integers(0, 5))
    return schema


def either(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Choices, and parts that all hold."""
    choices = st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches, "title": "Either"})
    return choices | inner.map(lambda part: {"allOf": [part], "description": "as it was written before 2020"})


schemas = st.recursive(leaves, lambda inner: arrays(inner) | objects(inner) | either(inner), max_leaves=12)


@settings(max_examples=1000)
@given(schemas)
def test_whatever_is_asked_for_is_what_comes(schema: Any) -> None:
    """Types, choices, bounds, formats, patterns, lists, tuples and objects, in each other."""
    assert is_fit(fitting(schema), schema)


@settings(max_examples=300)
@given(st.dictionaries(NAMES, schemas, min_size=1, max_size=3), st.data())
def test_references_are_followed(definitions: dict[str, Any], data: st.DataObject) -> None:
    """By JSON pointers, whatever the names hold, with words of their own beside them."""
    refs = [
        {"$ref": f"#/$defs/{name.replace('~', '~0').replace('/', '~1').replace(' ', '%20').replace('ö', '%C3%B6')}"}
        for name in definitions
    ]
    inner = st.sampled_from(refs).map(lambda ref: {**ref, "description": "beside it"})
    schema = {"$defs": definitions, **data.draw(arrays(inner) | objects(inner) | either(inner))}
    assert is_fit(fitting(schema), schema)


TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "left": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "right": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "more": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                "itself": {"$ref": "#"},
            },
            "required": ["name", "left", "right", "more"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/Node",
}


def test_what_refers_to_itself_ends() -> None:
    """A tree has some levels and no more."""
    tree = fitting(TREE)
    assert is_fit(tree, TREE)
    assert tree["left"]["name"] == "Paris"
    assert len(str(tree)) < 20_000


def test_examples_are_rich() -> None:
    """Fields that need not be there are, lists have an item, and what may be null is not."""
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": ["null", "string"]},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "more": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    }
    assert fitting(schema) == {"city": "Paris", "days": 7, "tags": ["Paris"], "more": {"key": 1.5}}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "nothing"},
        {"enum": []},
        {"type": "integer", "enum": ["a"]},
        {"anyOf": []},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/schema"},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "^a$", "minLength": 3},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3},
        {"type": "number", "exclusiveMinimum": 2, "maximum": 2},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3},
        "text", 5, None, [], {"type": 5}, {"type": "string", "pattern": 5}, {"anyOf": 5}, {"properties": []},
        {"type": "integer", "multipleOf": 0}, {"type": "number", "minimum": "x"}, {"$ref": 5}, {"required": 5},
    ],
    ids=str,
)  # fmt: skip
def test_what_nothing_fits_is_said(schema: Any) -> None:
    """At once, whatever is wrong with it."""
    with pytest.raises(Unfit):
        fitting(schema)


@settings(max_examples=500)
@given(
    st.recursive(
        JSON,
        lambda inner: st.dictionaries(
            st.sampled_from(["type", "properties", "items", "anyOf", "allOf", "$ref", "required", "enum", "minimum",
                             "pattern", "minItems", "minLength", "multipleOf", "maxLength", "additionalProperties"]),
            inner | st.sampled_from(["#", "object", "string", 10**9, -1]), max_size=4,
        ),
        max_leaves=10,
    )
)  # fmt: skip
def test_whatever_stands_for_a_schema_fails_in_one_way(schema: Any) -> None:
    """A value or Unfit, soon."""
    try:
        fitting(schema)
    except Unfit:
        return


def test_items_that_must_differ_do() -> None:
    """As far as others are known."""
    for items in (
        {"type": "string"},
        {"type": "integer"},
        {"enum": ["a", "b", "c"]},
        {"type": "number", "multipleOf": 2},
    ):
        schema = {"type": "array", "items": items, "uniqueItems": True, "minItems": 3}
        assert is_fit(fitting(schema), schema)
