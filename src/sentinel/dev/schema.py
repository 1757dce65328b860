"""A value that fits a JSON Schema, as a model with structured outputs gives one: plain values in, plain values out.

What OpenAI's structured outputs know is obeyed, and what pydantic writes beside it. Keywords that are not named here
are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from sentinel.dev.pattern import NoExample, example_of

TEXT, INTEGER, NUMBER, ITEM_KEY = "Paris", 7, 1.5, "key"
_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "ana@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "ipvanynetwork": "192.0.2.0/24",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "uri": "https://example.org/",
}
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")

_GENEROUS_DEPTH = 3
"""So deep references are followed for the sake of a rich example; below it only what must be there is."""
_MOST_DEPTH = 40
_MOST_STEPS = 20_000
_MOST_ITEMS = 1_000
_MOST_CHARACTERS = 10_000


class Unfit(ValueError):
    """No value that fits was found; the message says why."""


def fitting(schema: Any) -> Any:
    """A value that fits `schema`. Raises Unfit where the schema allows none, is too large, or is none."""
    try:
        return _Search(schema).value(schema, 0)
    except (TypeError, AttributeError, KeyError, ArithmeticError, RecursionError) as cause:
        raise Unfit("it is no JSON Schema") from cause
    except ValueError as cause:
        raise cause if isinstance(cause, Unfit) else Unfit("it is no JSON Schema") from cause


@dataclass(slots=True)
class _Search:
    """One look for a value. root: what references start from."""

    root: Any
    steps: int = field(default=0)

    def value(self, schema: Any, depth: int) -> Any:
        self.steps += 1
        if depth > _MOST_DEPTH or self.steps > _MOST_STEPS:
            raise Unfit("it is nested without an end")
        schema, depth = self.resolved(schema, depth)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.first_of(schema, choice, depth)
        if "const" in schema:
            return schema["const"]
        kinds = _kinds(schema)
        if "enum" in schema:
            return _member(schema["enum"], kinds)
        return self.of_kind(kinds[0], schema, depth)

    def resolved(self, schema: Any, depth: int) -> tuple[dict[str, Any], int]:
        """The schema with its references and all of `allOf` taken in; each reference is a level."""
        if schema is True:
            return {"type": "string"}, depth
        if not isinstance(schema, dict):
            raise Unfit("a part of it allows no value" if schema is False else "a part of it is no schema")
        while "$ref" in schema or "allOf" in schema:
            rest = dict(schema)
            parts = list(rest.pop("allOf", ()))
            if "$ref" in rest:
                parts.append(self.referred(rest.pop("$ref")))
                depth += 1
            if depth > _MOST_DEPTH:
                raise Unfit("it refers to itself without an end")
            for part in parts:
                rest = _both(rest, part)
            schema = rest
        return schema, depth

    def referred(self, pointer: str) -> Any:
        """What a `$ref` points to, within the same schema."""
        if not pointer.startswith("#"):
            raise Unfit(f"reference {pointer!r} leads out of it")
        found = self.root
        for part in unquote(pointer[1:]).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name) if isinstance(found, list) else name]
            except (KeyError, IndexError, TypeError, ValueError) as cause:
                raise Unfit(f"reference {pointer!r} leads nowhere") from cause
        return found

    def first_of(self, schema: dict[str, Any], choice: str, depth: int) -> Any:
        """A value for the first branch that has one; where it is deep, those without references come first."""
        rest = {name: part for name, part in schema.items() if name != choice}
        branches = list(schema[choice])
        if depth > _GENEROUS_DEPTH:
            branches.sort(key=_refers)
        reason = "it has no choices"
        for branch in branches:
            try:
                whole, deeper = self.resolved(branch, depth)
                return self.value(_both(rest, whole), deeper)
            except Unfit as unfit:
                reason = str(unfit)
        raise Unfit(reason)

    def of_kind(self, kind: str, schema: dict[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                return self.object(schema, depth)
            case "array":
                return self.array(schema, depth)
            case "string":
                return _text(schema)
            case "integer" | "number":
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case _:
                return None

    def object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        others = schema.get("additionalProperties", True)
        found: dict[str, Any] = {}
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        room = most - len(set(required))
        for name, part in properties.items():
            if name in required:
                found[name] = self.value(part, depth + 1)
            elif depth <= _GENEROUS_DEPTH and room > 0:
                try:
                    found[name] = self.value(part, depth + 1)
                    room -= 1
                except Unfit:
                    continue
        for name in required:
            if name not in found:
                found[name] = self.value(others, depth + 1)
        if not found and isinstance(others, dict) and depth <= _GENEROUS_DEPTH:
            least = max(1, least)
        key = self.value(schema.get("propertyNames", {"const": ITEM_KEY}), depth + 1) if len(found) < least else ""
        while len(found) < min(least, most):
            found[f"{key}{len(found)}" if key in found else key] = self.value(others, depth + 1)
        return found

    def array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        generous = depth <= _GENEROUS_DEPTH
        wanted = max(least, len(first) or (1 if isinstance(rest, dict) else 0)) if generous else least
        count = int(min(wanted, most))
        if count > _MOST_ITEMS:
            raise Unfit(f"it wants {count} items")
        found: list[Any] = []
        for index in range(count):
            part = first[index] if index < len(first) else rest
            try:
                item = self.value(part, depth + 1)
            except Unfit:
                if index >= least:
                    break
                raise
            found.append(_another(item, found, part) if schema.get("uniqueItems") else item)
        return found


def _kinds(schema: dict[str, Any]) -> list[str]:
    """The types that a schema allows, the telling ones first; where it has none, what its keywords are about."""
    kinds = schema.get("type")
    if kinds is None:
        for kind, words in (
            ("object", ("properties", "required", "additionalProperties")),
            ("array", ("items", "prefixItems", "minItems")),
            ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
        ):
            if any(word in schema for word in words):
                return [kind]
        return ["string", *_TYPES] if "enum" in schema else ["string"]
    found = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind in _TYPES]
    if not found:
        raise Unfit(f"it has no type that is known: {kinds!r}")
    return sorted(found, key=lambda kind: kind == "null")


def _member(members: list[Any], kinds: list[str]) -> Any:
    for member in members:
        if _kind_of(member) in kinds or (_kind_of(member) == "integer" and "number" in kinds):
            return member
    raise Unfit("none of its values has its type")


def _kind_of(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "string", int: "integer", float: "number", bool: "boolean"}
    return kinds.get(type(value), "null")


def _both(one: dict[str, Any], other: Any) -> dict[str, Any]:
    """A schema that asks for what both ask for."""
    if other is True:
        return one
    if not isinstance(other, dict):
        raise Unfit("a part of it allows no value")
    merged = {**other, **one}
    for name in one.keys() & other.keys() & _MERGES.keys():
        merged[name] = _MERGES[name](one[name], other[name])
    return merged


def _all_of(one: Any, other: Any) -> dict[str, Any]:
    return {"allOf": [one, other]}


def _common(one: str | list[str], other: str | list[str]) -> list[str]:
    ones, others = ([kinds] if isinstance(kinds, str) else kinds for kinds in (one, other))
    return [kind for kind in ones if kind in others or (kind == "integer" and "number" in others)] or [
        kind for kind in others if kind == "integer" and "number" in ones
    ]


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "properties": lambda a, b: {**b, **a, **{name: _all_of(a[name], b[name]) for name in a.keys() & b.keys()}},
    "required": lambda a, b: list(dict.fromkeys([*a, *b])),
    "allOf": lambda a, b: [*a, *b],
    "type": _common,
    "enum": lambda a, b: [member for member in a if member in b],
    "items": _all_of,
    "additionalProperties": _all_of,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
"""How two parts become one that holds for both; of any other keyword the first counts."""


def _refers(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "$ref" in schema or any(_refers(part) for part in schema.values())
    return isinstance(schema, list) and any(_refers(part) for part in schema)


def _text(schema: dict[str, Any]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least > _MOST_CHARACTERS:
        raise Unfit(f"it wants a text of {least} characters")
    if "pattern" in schema:
        try:
            return example_of(schema["pattern"], least, most)
        except NoExample as cause:
            raise Unfit(str(cause)) from cause
    text = _FORMATS.get(schema.get("format", ""), TEXT)
    if most is not None and most < least:
        raise Unfit("it wants a text that is longer than it may be")
    if len(text) < least:
        text = (text * (least // len(text) + 1))[:least]
    return text if most is None else text[:most]


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    step = Fraction(str(schema["multipleOf"])) if "multipleOf" in schema else None
    if whole:
        # Of p/q, in its lowest terms, the whole multiples are those of p.
        step = Fraction(1 if step is None else step.numerator)
    low, high, open_low, open_high = _bounds(schema)
    if step is not None:
        return _multiple(step, low, high, open_low, open_high, Fraction(INTEGER))
    value = Fraction(NUMBER)
    if low is not None and (value < low or (value == low and open_low)):
        value = low + 1 if open_low else low
    if high is not None and (value > high or (value == high and open_high)):
        value = (low + high) / 2 if low is not None else high - 1 if open_high else high
    _demand_within(value, low, high, open_low, open_high)
    return _plain(value)


def _bounds(schema: dict[str, Any]) -> tuple[Fraction | None, Fraction | None, bool, bool]:
    """The lowest and the highest number, and whether these are already too low or too high."""
    lows = [(Fraction(str(schema[name])), name[0] == "e") for name in ("minimum", "exclusiveMinimum") if name in schema]
    highs = [
        (-Fraction(str(schema[name])), name[0] == "e") for name in ("maximum", "exclusiveMaximum") if name in schema
    ]
    low, open_low = max(lows, default=(None, False))
    high, open_high = max(highs, default=(None, False))
    return low, None if high is None else -high, open_low, open_high


def _multiple(
    step: Fraction, low: Fraction | None, high: Fraction | None, open_low: bool, open_high: bool, wanted: Fraction
) -> int | float:
    """The multiple of `step` within the bounds that is closest to what is wanted."""
    count = math.ceil(wanted / step)
    if low is not None:
        count = max(count, math.floor(low / step) + 1 if open_low else math.ceil(low / step))
    if high is not None:
        count = min(count, math.ceil(high / step) - 1 if open_high else math.floor(high / step))
    value = count * step
    _demand_within(value, low, high, open_low, open_high)
    return _plain(value)


def _demand_within(
    value: Fraction, low: Fraction | None, high: Fraction | None, open_low: bool, open_high: bool
) -> None:
    if (low is not None and (value < low or (open_low and value == low))) or (
        high is not None and (value > high or (open_high and value == high))
    ):
        raise Unfit("no number is within its bounds")


def _plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _another(item: Any, found: list[Any], part: Any) -> Any:
    """The item, changed until it is unlike those before it."""
    for number in range(1, _MOST_ITEMS + len(found)):
        if item not in found:
            return item
        if isinstance(part, dict) and "enum" in part:
            item = next((member for member in part["enum"] if member not in found), item)
        elif isinstance(item, str) and not isinstance(part, bool) and "format" not in part and "pattern" not in part:
            item = f"{TEXT}{number}"
        elif isinstance(item, int | float) and not isinstance(item, bool):
            item += part.get("multipleOf", 1) if isinstance(part, dict) else 1
        else:
            break
    raise Unfit("it wants items that differ, and no others were found")
