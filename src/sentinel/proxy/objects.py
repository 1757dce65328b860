"""What an exchange does with objects that its provider keeps: those that a request names, those that its answer made.

They are their creators' alone (P7, middleware/ownership.py), and an earlier response or a conversation brings input
that is not in the request (cache/contexts.py).
"""

from __future__ import annotations

from sentinel.proxy.state import ExchangeState


async def check_references(exchange: ExchangeState) -> None:
    """What a request names must be the caller's; what that brings is input. Raises NotFound, RedisUnavailable."""
    deps, context = exchange.deps, exchange.context
    assert context.user is not None
    await deps.ownership.check(context.user.id, exchange.references)
    contexts = [reference.id for reference in exchange.references if reference.is_context]
    if contexts:
        context.counted_input += await deps.contexts.tokens(contexts)


async def record_created(exchange: ExchangeState) -> None:
    """Whose that is which the answer has made, and what it brings to the requests that go on from it."""
    deps, user = exchange.deps, exchange.context.user
    assert user is not None
    await deps.ownership.record(user.id, exchange.created, place=exchange.place)
    if exchange.job is None:
        named = (each for each in exchange.references if each.is_context)
        conversations = [each.id for each in named if each.kind == "conversations"]
        _, prompt, completion = exchange.spent.cost
        await deps.contexts.note([exchange.created[0], *conversations], prompt + completion)
