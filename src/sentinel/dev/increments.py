"""What a report of usage may look like, checked more strictly than Zion does (contract 1.4, version 4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sentinel.dev.accounts import WIRE_NAMES

MAX_INCREMENTS = 1000  # Zion refuses more in one batch.

_COST = "costMicroUsd"
"""An extension, which Zion ignores."""
_FIELDS = frozenset({"email", "model", "timestamp", _COST, *WIRE_NAMES.values()})
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_MAX_AMOUNT = 2**63 - 1


class BadIncrement(Exception):
    """The report is not what the contract says; the message names the place and the problem."""


@dataclass(frozen=True, slots=True)
class Increment:
    """One item of a report. timestamp: RFC 3339 as it was sent, None if left out; what is left out is 0."""

    email: str
    ai_input_tokens: int
    ai_output_tokens: int
    ai_requests: int
    model: str | None
    timestamp: str | None
    cost_micro_usd: int = 0


def read_batch(body: Any) -> list[Increment]:
    """Read the body of a batch. Raises BadIncrement. The number of items is not limited here."""
    if not isinstance(body, dict) or set(body) != {"increments"}:
        raise BadIncrement("the body must be an object with the one field 'increments'")
    items = body["increments"]
    if not isinstance(items, list) or not items:
        raise BadIncrement("'increments' must be a list that is not empty")
    return [read_increment(item, f"increments[{index}]") for index, item in enumerate(items)]


def read_increment(item: Any, place: str = "body") -> Increment:
    """Read one item. place: how an error names it. Raises BadIncrement."""
    if not isinstance(item, dict):
        raise BadIncrement(f"{place} must be an object")
    unknown = sorted(set(item) - _FIELDS)
    if unknown:
        raise BadIncrement(f"{place} has unknown fields: {', '.join(unknown)}")
    email = item.get("email")
    if not isinstance(email, str) or "@" not in email:
        raise BadIncrement(f"{place}.email must be an e-mail address")
    amounts = {name: _amount(item, wire_name, place) for name, wire_name in WIRE_NAMES.items()}
    if not any(amounts.values()):
        raise BadIncrement(f"{place} reports nothing: no metric is given")
    cost = _amount(item, _COST, place)
    return Increment(
        email, **amounts, model=_model(item, place), timestamp=_timestamp(item, place), cost_micro_usd=cost
    )


def _amount(item: dict[str, Any], wire_name: str, place: str) -> int:
    if wire_name not in item:
        return 0
    amount = item[wire_name]
    if type(amount) is not int or not 0 < amount <= _MAX_AMOUNT:
        raise BadIncrement(f"{place}.{wire_name} must be an integer above 0, or left out")
    return amount


def _model(item: dict[str, Any], place: str) -> str | None:
    if "model" not in item:
        return None
    model = item["model"]
    if not isinstance(model, str) or not model:
        raise BadIncrement(f"{place}.model must be a text that is not empty, or left out")
    return model


def _timestamp(item: dict[str, Any], place: str) -> str | None:
    if "timestamp" not in item:
        return None
    timestamp = item["timestamp"]
    problem = f"{place}.timestamp must be RFC 3339 in UTC with milliseconds and Z, such as 2026-02-03T10:20:30.456Z"
    if not isinstance(timestamp, str) or not _TIMESTAMP.fullmatch(timestamp):
        raise BadIncrement(problem)
    try:
        datetime.fromisoformat(timestamp)
    except ValueError as cause:
        raise BadIncrement(problem) from cause
    return timestamp
