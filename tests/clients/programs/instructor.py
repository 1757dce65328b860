"""instructor: structured output, in its three ways to ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import instructor
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.program import SAY, Access, run


class City(BaseModel):
    """A city."""

    name: str
    people: int


def cases(mode: Any) -> dict[str, Callable[[Access], Any]]:
    """What is the same for all ways."""

    def asked(access: Access) -> dict[str, Any]:
        client = instructor.from_openai(OpenAI(base_url=access.v1, api_key=access.token), mode=mode)
        return {"client": client, "model": access.model, "messages": [{"role": "user", "content": SAY}]}

    def structured(access: Access) -> Any:
        given = asked(access)
        return given.pop("client").chat.completions.create(**given, response_model=City).model_dump()

    def stream(access: Access) -> Any:
        given = asked(access)
        parts = given.pop("client").chat.completions.create_partial(**given, response_model=City)
        return [part.model_dump() for part in parts]

    return {"structured": structured, "stream": stream, "quota": structured, "key": structured}


if __name__ == "__main__":
    run({"tools": cases(instructor.Mode.TOOLS), "json": cases(instructor.Mode.JSON_SCHEMA)})
