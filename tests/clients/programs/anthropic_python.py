"""Anthropic's SDK for Python."""

from __future__ import annotations

from typing import Any

import anthropic
from pydantic import BaseModel

from tests.clients.program import CALL, LONG, SAY, TAKEN, Access, run

TOOL: Any = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    name: str
    people: int


def sdk(access: Access) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=access.url, api_key=access.token)


def asked(access: Access, text: str) -> dict[str, Any]:
    return {"model": access.model, "max_tokens": 1000, "messages": [{"role": "user", "content": text}]}


def chat(access: Access) -> Any:
    return "".join(
        block.text for block in sdk(access).messages.create(**asked(access, SAY)).content if block.type == "text"
    )


def stream(access: Access) -> Any:
    with sdk(access).messages.stream(**asked(access, SAY)) as events:
        return list(events.text_stream)


def tools(access: Access) -> Any:
    answer = sdk(access).messages.create(**asked(access, CALL), tools=[TOOL])
    return [block.input for block in answer.content if block.type == "tool_use"]


def structured(access: Access) -> Any:
    parsed = sdk(access).messages.parse(**asked(access, SAY), output_format=City).parsed_output
    assert parsed is not None
    return parsed.model_dump()


def abort(access: Access) -> Any:
    with sdk(access).messages.stream(**asked(access, LONG)) as events:
        return len([text for _, text in zip(range(TAKEN), events.text_stream, strict=False)])


if __name__ == "__main__":
    run(
        {
            "messages": {
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
