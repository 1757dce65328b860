"""Google's SDK for Python, google-genai."""

from __future__ import annotations

from typing import Any

from google import genai
from google.genai import types
from pydantic import BaseModel

from tests.clients.program import CALL, LONG, SAY, TAKEN, TEXTS, Access, run


class City(BaseModel):
    name: str
    people: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}"


def sdk(access: Access) -> genai.Client:
    return genai.Client(api_key=access.token, http_options=types.HttpOptions(base_url=access.url))


def chat(access: Access) -> Any:
    client = sdk(access)
    return client.models.generate_content(model=access.model, contents=SAY).text


def stream(access: Access) -> Any:
    client = sdk(access)
    chunks = client.models.generate_content_stream(model=access.model, contents=SAY)
    return [chunk.text for chunk in chunks if chunk.text]


def tools(access: Access) -> Any:
    off = types.AutomaticFunctionCallingConfig(disable=True)
    config = types.GenerateContentConfig(tools=[weather], automatic_function_calling=off)
    client = sdk(access)
    answer = client.models.generate_content(model=access.model, contents=CALL, config=config)
    return [call.args for call in answer.function_calls or ()]


def structured(access: Access) -> Any:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
    client = sdk(access)
    parsed = client.models.generate_content(model=access.model, contents=SAY, config=config).parsed
    assert isinstance(parsed, City)
    return parsed.model_dump()


def embeddings(access: Access) -> Any:
    contents: Any = TEXTS
    client = sdk(access)
    found = client.models.embed_content(model="gemini-embedding-001", contents=contents)
    return [len(each.values or ()) for each in found.embeddings or ()]


async def abort(access: Access) -> Any:
    taken = 0
    async with sdk(access).aio as client:
        chunks = await client.models.generate_content_stream(model=access.model, contents=LONG)
        async for chunk in chunks:
            taken += bool(chunk.text)
            if taken == TAKEN:
                break
    return taken


if __name__ == "__main__":
    run(
        {
            "gemini": {
                "chat": chat,
                "stream": stream,
                "tools": tools,
                "structured": structured,
                "quota": chat,
                "key": chat,
                "embeddings": embeddings,
                "abort": abort,
            }
        }
    )
