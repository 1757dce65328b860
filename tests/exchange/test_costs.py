"""What an exchange costs in money: in its line, in the head of a whole answer, and in its record; in every format."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.prices.catalog import Catalog, OwnPrice, Prices
from sentinel.prices.rates import Price
from sentinel.proxy.array_client import ArrayClientSide
from sentinel.proxy.client import ClientSide
from sentinel.usage.batch import Record
from tests.exchange.driver import DONE, USER, Client, Stage, event, usage
from tests.support.formats import FREE, OF_MEDIA, STREAMS, USAGE, WHOLES, Format
from tests.support.streams import entries

PRICES = OwnPrice(Price(input=Decimal("1000.1"), cached_input=Decimal(100), output=Decimal(1), output_audio=Decimal(2)))


def stage_with(store: Store, folder: Path, prices: Prices = PRICES) -> Stage:
    return Stage(store, folder, prices=prices)


async def recorded(stage: Stage) -> list[int]:
    """The cost of each record in the outbox, once all is settled."""
    await stage.settled()
    account = keys.account_keys(USER.id)
    written = await entries(stage.ledger.store, account.outbox)
    return [Record.read(account.partition, *each).cost_micro_usd for each in written]


def asking(format_: Format, *, stream: bool) -> Client:
    client = Client(side=ArrayClientSide if format_.is_array and stream else ClientSide)
    client.body, kind = format_.body(stream=stream)
    client.side.headers = {**client.side.headers, b"content-type": kind}
    return client


@pytest.mark.parametrize("format_", (STREAMS | OF_MEDIA).values(), ids=STREAMS | OF_MEDIA)
async def test_a_stream_costs_what_its_usage_does(store: Store, tmp_path: Path, format_: Format) -> None:
    """In the line and in the record; its head has left before that is known."""
    stage, client = stage_with(store, tmp_path), asking(format_, stream=True)
    stage.provider.pieces, stage.provider.header_lines = [*format_.stream], format_.stream_lines
    await stage.exchange(client, format_.at(stream=True)).run()
    [record] = (await stage.settled()).values()
    expected = -(-(record[1] * 10001 + record[2] * 10) // 10)
    assert await recorded(stage) == [expected]
    assert stage.ended[0].cost_micro_usd == expected
    assert record[1:] == USAGE or format_ in OF_MEDIA.values()


@pytest.mark.parametrize("format_", WHOLES.values(), ids=WHOLES)
async def test_a_whole_answer_says_what_it_costs(store: Store, tmp_path: Path, format_: Format) -> None:
    """In its head, too."""
    stage, client = stage_with(store, tmp_path), asking(format_, stream=False)
    stage.provider.pieces, stage.provider.header_lines = [*format_.stream], format_.stream_lines
    stage.provider.body = format_.whole
    exchange = stage.exchange(client, format_.at(stream=False))
    await exchange.run()
    _, inputs, outputs = exchange.spent.cost
    context = stage.ended[0]
    if not inputs and not outputs:
        assert context.cost_micro_usd is None
        return
    expected = -(-(inputs * 10001 + outputs * 10) // 10)
    assert await recorded(stage) == [expected]
    assert context.cost_micro_usd == expected
    assert f"x-sentinel-cost-usd: {expected / 10**6:.6f}\r\n".encode() in context.trace_lines(0.0)


@pytest.mark.parametrize("format_", FREE.values(), ids=FREE)
async def test_what_is_free_costs_nothing(store: Store, tmp_path: Path, format_: Format) -> None:
    """And says nothing of it."""
    stage, client = stage_with(store, tmp_path), asking(format_, stream=False)
    stage.provider.body = format_.whole
    await stage.exchange(client, format_.at(stream=False)).run()
    assert (await recorded(stage), stage.ended[0].cost_micro_usd) == ([], None)


def whole(told: dict[str, Any]) -> bytes:
    message = {"index": 0, "message": {"content": "one two"}, "finish_reason": "stop"}
    return json.dumps({"choices": [message], "usage": told}).encode()


@pytest.mark.parametrize(
    ("prices", "told", "cost", "recorded_cost"),
    [
        (PRICES, usage(9, 2) | {"prompt_tokens_details": {"cached_tokens": 8}}, 1803, 1803),
        (PRICES, usage(9, 2) | {"completion_tokens_details": {"audio_tokens": 1}}, 9004, 9004),
        (PRICES, usage(9, 2) | {"cost": 0.5}, 9003, 9003),
        (Catalog.ours().of("openrouter"), usage(9, 2) | {"cost": 0.5}, 500_000, 500_000),
        (Catalog.ours().of("openai"), usage(1000, 200) | {"cost": 0.5}, 270, 270),
        (Catalog.ours().of("nobody"), usage(9, 2), None, 0),
    ],
)
async def test_what_a_provider_tells_decides(
    store: Store, tmp_path: Path, prices: Prices, told: dict[str, Any], cost: int | None, recorded_cost: int
) -> None:
    """Kinds of tokens; the cost itself, where it is known to be dollars; without a price there is no figure."""
    stage, client = stage_with(store, tmp_path, prices), Client()
    stage.provider.body = whole(told)
    await stage.exchange(client).run()
    assert await recorded(stage) == [recorded_cost]
    assert stage.ended[0].cost_micro_usd == cost
    assert (b"x-sentinel-cost-usd" in stage.ended[0].trace_lines(0.0)) == (cost is not None)


async def test_a_stream_at_its_limit_costs_what_was_delivered(store: Store, tmp_path: Path) -> None:
    """Without usage, by our own count."""
    stage, client = stage_with(store, tmp_path), Client(stream=True)
    await stage.limit(2)
    stage.provider.pieces = [event(" one"), event(" two"), event(" three"), DONE]
    await stage.exchange(client).run()
    [record] = (await stage.settled()).values()
    assert stage.ended[0].outcome == "limit"
    assert await recorded(stage) == [-(-(record[1] * 10001 + record[2] * 10) // 10)]


async def test_what_passes_through_costs_what_it_tells(store: Store, tmp_path: Path) -> None:
    """Where it names its model and tells usage; a request without tokens has no cost."""
    stage = stage_with(store, tmp_path)
    stage.provider.header_lines = b"content-type: application/json\r\n"
    stage.provider.pieces = [json.dumps({"id": "x_1", "usage": usage(9, 2)}).encode()]
    await stage.passthrough(Client(), "POST", "/v1/things").run()
    stage.provider.pieces = [b'{"id":"x_2"}']
    await stage.passthrough(Client(), "POST", "/v1/things").run()
    assert [context.cost_micro_usd for context in stage.ended] == [9003, None]
    assert sorted(await recorded(stage)) == [0, 9003]
