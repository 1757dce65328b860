"""The call to Zion, as far as it needs no Zion."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel.error import InvalidApiKey
from sentinel.governance.service.increments import MOST_AMOUNT
from sentinel.limits.policy import Cost
from sentinel.timestamp import rfc3339
from sentinel.usage.batch import Item
from sentinel.zion.client import ZionClient, increment_of
from sentinel.zion.report import Increment


@pytest.mark.parametrize("token", ["a\nb", "a\r\nx-api-key: b", "a\x00", "a\x7f", "\ud800"])
async def test_a_token_that_no_header_can_hold_is_invalid(token: str) -> None:
    """It is refused before anything is sent."""
    client = ZionClient("http://127.0.0.1:1", "key")
    with pytest.raises(InvalidApiKey):
        await client.identify(token)
    await client.close()


def test_an_item_is_told_by_email_and_moment() -> None:
    """Zion books under the e-mail address, at the moment when the first of it was spent."""
    item = Item(3, "ana", "a@x", "m", 0, ["1-0"], Cost(1, 10, 5), 1_770_114_030_456)
    assert increment_of(item) == Increment("a@x", 10, 5, 1, "m", "2026-02-03T10:20:30.456Z")


def test_an_item_is_told_with_its_cost() -> None:
    """By an extension's name; left out where it is not known, and never more than a governance takes."""
    item = Item(3, "ana", "a@x", "m", 0, ["1-0"], Cost(1, 10, 5), 5, cost_micro_usd=4375)
    assert b'"costMicroUsd":4375' in msgspec.json.encode(increment_of(item))
    assert increment_of(replace(item, cost_micro_usd=2**60)).cost_micro_usd == MOST_AMOUNT
    assert b"cost" not in msgspec.json.encode(increment_of(replace(item, cost_micro_usd=0)))


@given(st.integers(0, 4_102_444_800_000))
def test_moments_are_written_as_zion_wants_them(ms: int) -> None:
    """RFC 3339, UTC, milliseconds, Z."""
    text = rfc3339(ms)
    assert len(text) == 24
    assert text.endswith("Z")
    assert text[19] == "."
    assert int(text[20:23]) == ms % 1000
