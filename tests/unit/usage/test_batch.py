"""How records become items."""

from __future__ import annotations

import json
import struct

import msgspec
import pytest
from msgspec.structs import replace

from sentinel.limits.policy import Cost
from sentinel.steps import at_once
from sentinel.usage.batch import MOST_ENTRIES, Batch, Item, Items, Record, calls_for


def record(user: str = "ana", model: str = "m", period: int = 0, at_ms: int = 5, entry: str = "1-0") -> Record:
    return Record(3, entry, "req_1", user, f"{user}@x.y", model, Cost(1, 10, 5), period, at_ms)


def test_a_record_is_what_the_script_writes() -> None:
    """Whose it is, what was spent, in which period, and when: by the entry's name where it does not say."""
    who = json.dumps(["req_1", "ana", "ana@x.y", "gpt-4o"]).encode()
    fields = {b"who": who, b"sum": struct.pack("<5d", 1, 12, 7, 2, 0)}
    read = Record.read(3, b"1770000000123-4", fields)
    assert read == Record(3, "1770000000123-4", "req_1", "ana", "ana@x.y", "gpt-4o", Cost(1, 12, 7), 2, 1770000000123)
    fields[b"sum"] = struct.pack("<5d", 1, 12, 7, 2, 42)
    assert Record.read(3, b"1770000000123-4", fields).at_ms == 42


def test_a_record_may_tell_its_cost() -> None:
    """One of an older version tells none; what it cannot be makes it no record."""
    who = json.dumps(["req_1", "ana", "ana@x.y", "gpt-4o"]).encode()
    fields = {b"who": who, b"sum": struct.pack("<5d", 1, 12, 7, 2, 0)}
    assert Record.read(3, b"1-0", fields).cost_micro_usd == 0
    assert Record.read(3, b"1-0", fields | {b"micro_usd": struct.pack("<d", 4375)}).cost_micro_usd == 4375
    for cost in (struct.pack("<d", -1), struct.pack("<d", float("nan")), struct.pack("<d", 2.0**60), b"12"):
        with pytest.raises((ValueError, struct.error)):
            Record.read(3, b"1-0", fields | {b"micro_usd": cost})


def test_costs_add_up() -> None:
    """Over the records of an item, and over two items; a batch of an older version tells none."""
    items = Items()
    items.add([replace(record(), cost_micro_usd=4000), replace(record(), cost_micro_usd=375), record()])
    [item] = items.items
    assert item.cost_micro_usd == 4375
    assert item.merge(replace(item))
    assert item.cost_micro_usd == 8750
    assert msgspec.json.decode(msgspec.json.encode(item), type=Item) == item
    old = {key: value for key, value in msgspec.json.decode(msgspec.json.encode(item)).items() if "cost" not in key}
    assert msgspec.json.decode(msgspec.json.encode(old), type=Item).cost_micro_usd == 0


@pytest.mark.parametrize(
    "numbers", [(-1, 1, 1, 0, 5), (1, 2.0**60, 1, 0, 5), (1, 1, 1, -2, 5), (1, 1, 1, 0, -5), (1, 1, 1, 0, 1e300)]
)
def test_amounts_and_moments_that_cannot_be_are_no_record(numbers: tuple[float, ...]) -> None:
    """Nobody has spent so much, no calendar has that moment."""
    who = json.dumps(["req_1", "ana", "ana@x.y", "gpt-4o"]).encode()
    with pytest.raises(ValueError, match=r"nobody spends|no calendar"):
        Record.read(3, b"1-0", {b"who": who, b"sum": struct.pack("<5d", *numbers)})


def test_a_batch_is_at_home_where_its_first_item_is() -> None:
    """That partition's deliverer is in charge of it; an item without a record has no moment yet."""
    items = Items()
    items.add([record()])
    assert Batch("key", items.items).home == 3
    assert items.items[0].has_moment
    assert not Item(3, "ana", "ana@x.y", "m", 0).has_moment


@pytest.mark.parametrize("fields", [{}, {b"who": b"[]"}, {b"who": b"x", b"sum": b""}, {b"x": b"y"}])
def test_what_is_no_record_is_no_record(fields: dict[bytes, bytes]) -> None:
    """Something else in the stream raises what the reader of the stream expects."""
    with pytest.raises((KeyError, ValueError, struct.error)):
        Record.read(3, b"1-0", fields)


def test_one_item_for_each_user_model_and_period() -> None:
    """Sums, and the earliest moment; the new period's usage is not told under the old one's time."""
    items = Items()
    items.add([record(at_ms=9), record(at_ms=7), record(model="n"), record(period=1), record("bo")])
    assert [(item.user, item.model, item.period, item.spent, item.at_ms) for item in items.items] == [
        ("ana", "m", 0, (2, 20, 10), 7),
        ("ana", "n", 0, (1, 10, 5), 5),
        ("ana", "m", 1, (1, 10, 5), 5),
        ("bo", "m", 0, (1, 10, 5), 5),
    ]


def test_an_item_has_no_more_records_than_a_script_can_take() -> None:
    """A longer one becomes two."""
    items = Items()
    items.add(record(entry=f"{n}-0") for n in range(MOST_ENTRIES + 1))
    assert [len(item.entries) for item in items.items] == [MOST_ENTRIES, 1]
    assert not items.items[0].merge(items.items[1])


def test_a_call_is_about_one_partition() -> None:
    """One script works on the keys of one partition alone, and for a short time."""
    things = [(0, "a"), (1, "b"), (0, "c"), (0, "d"), (1, "e")]
    calls = at_once(calls_for(things, 2, lambda thing: thing[0]))
    assert calls == [[(0, "a"), (0, "c")], [(1, "b"), (1, "e")], [(0, "d")]]
