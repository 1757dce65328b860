"""The call to Zion, as far as it needs no Zion."""

from __future__ import annotations

import pytest

from sentinel.error import InvalidApiKey
from sentinel.zion.client import ZionClient


@pytest.mark.parametrize("token", ["a\nb", "a\r\nx-api-key: b", "a\x00", "a\x7f", "\ud800"])
async def test_a_token_that_no_header_can_hold_is_invalid(token: str) -> None:
    """It is refused before anything is sent."""
    client = ZionClient("http://127.0.0.1:1", "key")
    with pytest.raises(InvalidApiKey):
        await client.user(token)
    await client.close()
