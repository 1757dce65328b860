"""OpenAI's SDK for Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
from pydantic import BaseModel

from tests.clients.program import CALL, EMBEDDING_MODEL, LONG, SAY, TAKEN, TEXTS, UPLOAD, Access, run

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class City(BaseModel):
    name: str
    people: int


def sdk(access: Access) -> openai.OpenAI:
    return openai.OpenAI(base_url=access.v1, api_key=access.token)


def asked(access: Access, text: str) -> dict[str, Any]:
    return {"model": access.model, "messages": [{"role": "user", "content": text}]}


def chat(access: Access) -> Any:
    return sdk(access).chat.completions.create(**asked(access, SAY)).choices[0].message.content


def stream(access: Access) -> Any:
    chunks = sdk(access).chat.completions.create(**asked(access, SAY), stream=True)
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


def tools(access: Access) -> Any:
    function: Any = {"name": "weather", "parameters": PARAMETERS, "strict": True}
    with sdk(access).chat.completions.stream(
        **asked(access, CALL), tools=[{"type": "function", "function": function}]
    ) as events:
        calls = events.get_final_completion().choices[0].message.tool_calls
    assert calls is not None
    return [call.function.arguments for call in calls]


def structured(access: Access) -> Any:
    parsed = sdk(access).chat.completions.parse(**asked(access, SAY), response_format=City).choices[0].message.parsed
    assert parsed is not None
    return parsed.model_dump()


def embeddings(access: Access) -> Any:
    found = sdk(access).embeddings.create(model=EMBEDDING_MODEL, input=TEXTS)
    return [len(each.embedding) for each in found.data]


def upload(access: Access) -> Any:
    client = sdk(access)
    made = client.files.create(file=("lines.jsonl", UPLOAD), purpose="batch")
    return client.files.content(made.id).read().decode()


def abort(access: Access) -> Any:
    chunks = sdk(access).chat.completions.create(**asked(access, LONG), stream=True)
    taken = [chunk for _, chunk in zip(range(TAKEN), chunks, strict=False)]
    chunks.close()
    return len(taken)


def respond(access: Access) -> Any:
    return sdk(access).responses.create(model=access.model, input=SAY).output_text


def respond_in_a_stream(access: Access) -> Any:
    events = sdk(access).responses.create(model=access.model, input=SAY, stream=True)
    return [event.delta for event in events if event.type == "response.output_text.delta"]


def respond_with_a_tool(access: Access) -> Any:
    tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
    answer = sdk(access).responses.create(model=access.model, input=CALL, tools=[tool])
    return [item.arguments for item in answer.output if item.type == "function_call"]


def respond_as_asked(access: Access) -> Any:
    parsed = sdk(access).responses.parse(model=access.model, input=SAY, text_format=City).output_parsed
    assert parsed is not None
    return parsed.model_dump()


def leave_a_response(access: Access) -> Any:
    events = sdk(access).responses.create(model=access.model, input=LONG, stream=True)
    deltas = (event for event in events if event.type == "response.output_text.delta")
    taken = [delta for _, delta in zip(range(TAKEN), deltas, strict=False)]
    events.close()
    return len(taken)


CHAT: dict[str, Callable[[Access], Any]] = {
    "chat": chat,
    "stream": stream,
    "tools": tools,
    "structured": structured,
    "quota": chat,
    "key": chat,
    "embeddings": embeddings,
    "upload": upload,
    "abort": abort,
}
RESPONSES: dict[str, Callable[[Access], Any]] = {
    "chat": respond,
    "stream": respond_in_a_stream,
    "tools": respond_with_a_tool,
    "structured": respond_as_asked,
    "quota": respond,
    "key": respond,
    "abort": leave_a_response,
}

if __name__ == "__main__":
    run({"chat": CHAT, "responses": RESPONSES})
