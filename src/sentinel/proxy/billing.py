"""What an exchange has cost, by how it ended. Decides.

| how it ended | input | output |
|---|---|---|
| nothing was sent to the provider, or it refused | 0 | 0 |
| an error, or a break, before anything was generated | 0 | 0 |
| the client left before the provider's answer | counted | what may have been thought unseen |
| a whole answer | told, else counted | told, else counted |
| a stream that was read to its end | told, else counted | told if usage came last, else the larger of it, delivered |
| a stream that the client left | told, else counted | the largest of told, delivered, thought unseen at most |
| a stream that was ended at a limit | told, else counted | delivered |

`told` is the provider's usage, `counted` our own count of the request, `delivered` that of what the client got.
Source: DESIGN section 5; docs/adr/0005.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sentinel.limits.policy import FREE, Cost
from sentinel.prices.catalog import Prices
from sentinel.tokens.usage import NOTHING, PLAIN, UNTOLD, Usage

UNSEEN_TOKENS_PER_SECOND = 400
"""Of one choice: more than the fastest of the models that think unseen generates."""


class Spent(Struct, frozen=True, gc=False):
    """What an exchange cost. source: `provider`, `count`, or `none` for nothing.

    usage: of which kinds its tokens are, as far as the provider tells; its sums may be others than those of cost.
    """

    cost: Cost = FREE
    source: str = "none"
    usage: Usage = NOTHING

    def micro_usd(self, prices: Prices, model: str, now_ms: int) -> int | None:
        """What that is in money; None where there is no price, or no token that one could be for.

        model: as the provider names it. now_ms: when it was admitted.
        """
        _, inputs, outputs = self.cost
        if not inputs and not outputs:
            return None
        if prices.tells_cost and self.usage.details.told_micro_usd != UNTOLD:
            return self.usage.details.told_micro_usd
        price = prices.of(model, now_ms)
        return None if price is None else price.cost(inputs, outputs, self.usage)


SPENT_NOTHING = Spent()
COUNTED = Spent(source="count")
"""By us for a client that asked for nothing else, which is free."""


def spent(usage: Usage, counted_input: int, counted_output: int, *, final: bool = True) -> Spent:
    """What usage tells, and our own count for what it does not tell. final: it tells of all that was generated."""
    told = usage.output_tokens
    output = told if told and final else max(told, counted_output)
    source = "provider" if usage.prompt_tokens and output == told else "count"
    cost = Cost(1, usage.prompt_tokens or counted_input, output)
    return Spent(cost, source, usage)


def abandoned(counted_input: int, unseen: int) -> Spent:
    """What a client costs that left before the provider had answered."""
    return spent(NOTHING, counted_input, unseen)


def streamed(
    usage: Usage, counted_input: int, delivered: int, *, is_final: bool, ended_well: bool, left: bool, unseen: int
) -> Spent:
    """What a stream costs that was not ended by us.

    delivered: output tokens, -1 before anything was generated. is_final: usage came last, and the stream to its end.
    ended_well: it told of no error. left: the client did; unseen: what may have been thought for it.
    """
    if delivered < 0 and not left and not ended_well:
        return SPENT_NOTHING
    return spent(usage, counted_input, max(0, delivered, 0 if is_final else unseen), final=is_final)


def at_limit(usage: Usage, counted_input: int, delivered: int) -> Spent:
    """What a stream costs that was ended at a limit: its input, and what the client got."""
    return spent(
        replace(usage, completion_tokens=0, total_tokens=0, reasoning_tokens=0, details=PLAIN), counted_input, delivered
    )


def unseen(seconds: float, choices: int, held_output: int) -> int:
    """The most that a model may have thought unseen in this time, and within the reservation."""
    return min(held_output, round(seconds * UNSEEN_TOKENS_PER_SECOND) * choices)
