"""What Redis is given of a Lua text: numbers for the names that the text gives them."""

from __future__ import annotations

from sentinel.cache.redis import constants_of, with_constants

TEXT = """\
-- LAST is no place here
local LAST = 2    -- the moment
local FIRST, SUM = 3, -4
local FORM, NONE = '<d', { 0 }
  local INNER = 5
a[LAST] = LAST_MS + call('SUM', b[SUM + 1]) -- SUM, Redis' own
"""


def test_names_of_numbers_become_numbers() -> None:
    """Not in comments and strings, not in longer names, and nothing else that is named in capitals."""
    assert constants_of(TEXT) == {"LAST": "2", "FIRST": "3", "SUM": "-4"}
    assert with_constants(TEXT, constants_of(TEXT)).splitlines() == [
        "-- LAST is no place here",
        "    -- the moment",
        "",
        "local FORM, NONE = '<d', { 0 }",
        "  local INNER = 5",
        "a[2] = LAST_MS + call('SUM', b[-4 + 1]) -- SUM, Redis' own",
    ]
