"""Models of pydantic, as applications have them, for structured outputs."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AnyUrl, BaseModel, ConfigDict, Field


class Unit(StrEnum):
    METRE = "m"
    FOOT = "ft"


class Plain(BaseModel):
    """What the SDK's own example has."""

    name: str
    date: str
    participants: list[str]


class Bounded(BaseModel):
    """Numbers and texts that are bounded."""

    model_config = ConfigDict(extra="forbid")

    age: Annotated[int, Field(ge=18, lt=20)]
    even: Annotated[int, Field(multiple_of=4, gt=100)]
    share: Annotated[float, Field(gt=0, lt=1)]
    temperature: Annotated[float, Field(le=-273.15)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{2,4}$")]
    long: Annotated[str, Field(min_length=30)]
    short: Annotated[str, Field(max_length=2)]
    three: Annotated[list[int], Field(min_length=3, max_length=3)]


class Step(BaseModel):
    """Of a chain that refers to itself."""

    explanation: str
    unit: Unit
    next: Step | None
    parts: list[Step]


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: float


class Box(BaseModel):
    kind: Literal["box"]
    sides: tuple[float, float]


class Mixed(BaseModel):
    """Dates, choices, and everything that may be absent or null."""

    at: datetime
    day: date
    hour: time
    took: timedelta
    id: UUID
    link: AnyUrl
    price: Decimal
    shape: Circle | Box
    maybe: int | None
    text_or_number: str | int | None
    flags: list[bool | None]
    level: Literal[1, 2, 3]
    only: Literal["this"]
    steps: list[Step]


MODELS = (Plain, Bounded, Step, Mixed)
