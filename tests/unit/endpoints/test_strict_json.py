"""Equal keys and endless numbers: found wherever they matter, however they are written, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.strict_json import MOST_DIGITS, EqualKeys, Shape, has_endless_number, refuse_equal_keys
from sentinel.tokens.tools import MOST_BYTES

SHAPE: Shape = {"a": {"b": {}, "a": {}}, "c": None}
PADDING = 40_000
"""Enough that a body is no longer looked at in one go."""

spaces = st.sampled_from(["", "", " ", "\n", "\t \r\n"])
keys = st.sampled_from(["a", "b", "c", "\u00e9", 'q"', "\\", "\n", "", "\U0001f600"])


@st.composite
def spelled(draw: st.DrawFn, key: str) -> str:
    """A key as JSON, some of its characters in escapes."""
    pieces = []
    for character in key:
        escaped = "".join(
            f"\\u{int.from_bytes(character.encode('utf-16-be')[at : at + 2]):04{draw(st.sampled_from('xX'))}}"
            for at in range(0, len(character.encode("utf-16-be")), 2)
        )
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        pieces.append(draw(st.sampled_from([plain, plain, escaped])))
    return f'"{"".join(pieces)}"'


@st.composite
def written(draw: st.DrawFn, depth: int = 4) -> str:
    """Any JSON of few keys, with any white space: many of its objects have equal keys."""
    kind = draw(st.sampled_from(["scalar", "list", "object", "object"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(
            st.sampled_from(["1", "12", "1.5", "-0", '"x"', '"1,\\"a\\":{"', "null", "true", "{}", "[ ]", "{ }"])
        )
    space = draw(spaces)
    if kind == "list":
        return f"[{space}{f'{space},{space}'.join(draw(st.lists(written(depth - 1), max_size=3)))}{space}]"
    names = draw(st.lists(keys, max_size=4))
    pairs = [f"{draw(spelled(name))}{space}:{space}{draw(written(depth - 1))}" for name in names]
    return f"{{{space}{f'{space},{space}'.join(pairs)}{draw(spaces)}}}"


class Pairs(list[tuple[str, Any]]):
    """An object as an independent reader gives it."""


def expected(value: Any, shape: Shape) -> bool:
    """Whether an object that matters has equal keys, by the standard library's reader."""
    if isinstance(value, Pairs):
        names = [name for name, _ in value]
        if len(set(names)) < len(names):
            return True
        return any(
            expected(inner, None if shape is None else shape[n]) for n, inner in value if not shape or n in shape
        )
    return isinstance(value, list) and any(expected(item, shape) for item in value)


@given(written(), st.sampled_from([0, PADDING]))
def test_equal_keys_are_found_where_they_matter(text: str, padding: int) -> None:
    """Whatever the white space, the escapes, the sizes and the nesting; and nothing else is found."""
    padded = f'[{text},"{"x" * padding}"]'
    body = padded.encode()
    right = expected(json.loads(padded, object_pairs_hook=Pairs), SHAPE)
    if not right:
        refuse_equal_keys(body, SHAPE)
        return
    with pytest.raises(EqualKeys) as caught:
        refuse_equal_keys(body, SHAPE)
    assert caught.value.path.startswith("[0]")


@pytest.mark.parametrize("padding", [0, PADDING])
@pytest.mark.parametrize(
    ("text", "path", "key"),
    [
        ('{"x":1,"x":1}', "", "x"),
        ('{"x":1,"\\u0078":1}', "", "x"),
        ('{"x":12,"y":2,"x":1}', "", "x"),
        ('{"x":1 , "x":12}', "", "x"),
        ('{"y":1,"x":12,"x":1}', "", "x"),
        ('{"":1, "":2}', "", ""),
        ('{"a":[{},{"b":1, "c":[] , "b":2}]}', "a[1]", "b"),
        ('{"a":{"b":{"deep":1,"deep":2}}}', "a.b", "deep"),
        ('{"c":[[{"d":{"e":1,"e":1}}]]}', "c", "e"),
        ('{"a":{"a":1},"a":{}}', "", "a"),
    ],
)
def test_the_object_and_the_key_are_named(text: str, path: str, key: str, padding: int) -> None:
    """As OpenAI writes paths."""
    body = text[:-1] + (f',"pad":"{"x" * padding}"}}' if padding else "}")
    with pytest.raises(EqualKeys) as caught:
        refuse_equal_keys(body.encode(), SHAPE)
    assert (caught.value.path, caught.value.key) == (path, key)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 5_000])
def test_the_last_of_many_items_is_looked_at(count: int) -> None:
    """A list is taken in groups."""
    items = [b'{"b": 1, "x": {"y": 1, "y": 2}}'] * (count - 1) + [b'{"b": 1, "b": 2}']
    with pytest.raises(EqualKeys) as caught:
        refuse_equal_keys(b'{"a": [%b]}' % b", ".join(items), SHAPE)
    assert caught.value.path == f"a[{count - 1}]"


def test_groups_in_which_nothing_comes_twice_are_passed_over() -> None:
    """The item that has the equal keys is found all the same, and named by its place among all."""
    items = [b'{"b": 1}'] * 100
    items[70] = b'{"b": 1, "b": 2}'
    with pytest.raises(EqualKeys) as caught:
        refuse_equal_keys(b'{"a": [%b]}' % b", ".join(items), SHAPE)
    assert caught.value.path == "a[70]"


def test_only_size_hides_what_is_not_decided_on() -> None:
    """What jiter refuses for its depth is read otherwise; what is too large to be taken apart, nobody decides on."""
    deep = b"[" * 300 + b"]" * 300
    with pytest.raises(EqualKeys):
        refuse_equal_keys(b'{"c":[%b,{"x":1,"x":2}]}' % deep, SHAPE)
    refuse_equal_keys(b'{"c":["%b",{"x":1,"x":2}]}' % (b"x" * MOST_BYTES), SHAPE)


@pytest.mark.parametrize("before", ["", "x" * 10_000, '\\"', "1" * MOST_DIGITS])
@pytest.mark.parametrize("digits", [MOST_DIGITS, MOST_DIGITS + 1, 10_000])
@pytest.mark.parametrize("shift", [0, 1, MOST_DIGITS // 2])
def test_endless_numbers_are_found_and_digits_in_texts_are_not(before: str, digits: int, shift: int) -> None:
    """At any place; an integer, a fraction, an exponent."""
    number, space = "1" * digits, " " * shift
    for value in (number, f"-{number}", f"1.{number}", f"1e{number}"):
        body = f'{{{space}"{before}":["{number}",{value},"{number}"]}}'.encode()
        assert has_endless_number(body) is (digits > MOST_DIGITS)
    assert not has_endless_number(f'{{{space}"{before}":["\\"{number}", "{number}\\\\" ]}}'.encode())


def test_depth_is_no_equal_key() -> None:
    """What is nested deeper than the quick look goes is looked at by another, and passes."""
    deep = b'{"a":{"b":1,"c":2,"d":' + b"[" * 400 + b"]" * 400 + b"}}"
    refuse_equal_keys(deep, {"a": None})
    with pytest.raises(EqualKeys):
        refuse_equal_keys(deep.replace(b'"c"', b'"b"'), {"a": None})


@pytest.mark.parametrize(
    ("body", "endless"),
    [(b"1" * MOST_DIGITS, False), (b"1" * (MOST_DIGITS + 1), True), (b"[%b]" % b",".join([b"12"] * 9_000), False)],
)
def test_the_longest_number_that_all_can_read(body: bytes, endless: bool) -> None:
    """Neither a short body nor a long one of short numbers can have a longer one."""
    assert has_endless_number(body) is endless
