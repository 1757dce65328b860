"""The routes below /_sim, by which a test in another process switches faults and reads what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sentinel.dev.exchange import Exchange
    from sentinel.dev.faults import Faults

PREFIX = "/_sim/"


async def control(exchange: Exchange, actions: Mapping[tuple[str, str], Callable[[Any], object]]) -> None:
    """Answer a control request from a table: (method, path) to a function of the decoded body.

    Its result goes out as JSON; a TypeError, ValueError or KeyError of it is a 400 with the reason.
    """
    action = actions.get((exchange.method, exchange.path))
    if action is None:
        await exchange.answer_json(404, {"error": f"no control route {exchange.method} {exchange.path}"})
        return
    try:
        result = action(msgspec.json.decode(exchange.raw) if exchange.raw else {})
    except (TypeError, ValueError, KeyError) as mistake:
        await exchange.answer_json(400, {"error": str(mistake)})
    else:
        await exchange.answer_json(200, result)


def set_faults(faults: Faults, body: dict[str, Any]) -> dict[str, Any]:
    """Replace all faults by those in `body` (empty: none) and say what now holds."""
    garbage = body.get("body")
    faults.set(**{**body, "body": garbage.encode()} if isinstance(garbage, str) else body)
    return faults.as_json()


def set_options(target: object, allowed: Mapping[str, object], body: dict[str, Any]) -> dict[str, Any]:
    """Set attributes of a simulator by name and say what now holds. Raises ValueError for a name not in `allowed`."""
    for name, value in body.items():
        if name not in allowed:
            raise ValueError(f"no option {name!r}; there are {', '.join(sorted(allowed))}")
        current = getattr(target, name)
        setattr(target, name, set(value) if isinstance(current, set) else value)
    return {name: getattr(target, name) for name in allowed}
