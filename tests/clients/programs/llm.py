"""llm: the command and library of that name, with a model of `extra-openai-models.yaml` as its page says."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tests.clients.program import CALL, LONG, SAY, TAKEN, Access, run

FOLDER = Path(tempfile.mkdtemp(prefix="llm-"))
os.environ["LLM_USER_PATH"] = str(FOLDER)

MODEL = """
- model_id: sentinel
  model_name: {model}
  api_base: {url}
  api_key_name: sentinel
  supports_tools: true
  supports_schema: true
"""


class City(BaseModel):
    name: str
    people: int


def model(access: Access) -> Any:
    import llm  # noqa: PLC0415  It looks for its folder when it is imported.

    (FOLDER / "extra-openai-models.yaml").write_text(MODEL.format(model=access.model, url=access.v1))
    found = llm.get_model("sentinel")
    found.key = access.token
    return found


def chat(access: Access) -> Any:
    return model(access).prompt(SAY, stream=False).text()


def stream(access: Access) -> Any:
    return [piece for piece in model(access).prompt(SAY) if piece]


def tools(access: Access) -> Any:
    called = []

    def weather(city: str) -> str:
        """The weather of a city."""
        called.append({"city": city})
        return f"Sunny in {city}"

    model(access).chain(CALL, tools=[weather]).text()
    (call,) = called
    return call


def structured(access: Access) -> Any:
    return City.model_validate_json(model(access).prompt(SAY, schema=City, stream=False).text()).model_dump()


def abort(access: Access) -> Any:
    pieces = iter(model(access).prompt(LONG))
    taken = [piece for _, piece in zip(range(TAKEN), pieces, strict=False)]
    pieces.close()
    return len(taken)


if __name__ == "__main__":
    run(
        {
            "chat": {
                "chat": chat,
                "stream": stream,
                "tools": tools,
                "structured": structured,
                "quota": chat,
                "key": chat,
                "abort": abort,
            }
        }
    )
