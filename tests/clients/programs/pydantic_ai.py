"""pydantic-ai: agents over chat, responses (its way for `openai:`) and Anthropic's messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.program import (
    CALL,
    EMBEDDING_MODEL,
    LONG,
    SAY,
    TAKEN,
    TEXTS,
    Access,
    run,
)


class City(BaseModel):
    """A city."""

    name: str
    people: int


def openai_provider(access: Access) -> Any:
    return OpenAIProvider(base_url=access.v1, api_key=access.token)


def openai_chat(access: Access) -> Any:
    return OpenAIChatModel(access.model, provider=openai_provider(access))


def openai_responses(access: Access) -> Any:
    return OpenAIResponsesModel(access.model, provider=openai_provider(access))


def claude(access: Access) -> Any:
    return AnthropicModel(access.model, provider=AnthropicProvider(base_url=access.url, api_key=access.token))


def cases(model: Callable[[Access], Any]) -> dict[str, Callable[[Access], Any]]:
    """What is the same for all models."""

    async def chat(access: Access) -> Any:
        return (await Agent(model(access)).run(SAY)).output

    async def stream(access: Access) -> Any:
        async with Agent(model(access)).run_stream(SAY) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    async def tools(access: Access) -> Any:
        agent, called = Agent(model(access)), []

        @agent.tool_plain
        def weather(city: str) -> str:
            """The weather of a city."""
            called.append({"city": city})
            return f"Sunny in {city}"

        await agent.run(CALL)
        (call,) = called
        return call

    async def structured(access: Access) -> Any:
        return (await Agent(model(access), output_type=City).run(SAY)).output.model_dump()

    async def abort(access: Access) -> Any:
        taken = 0
        async with Agent(model(access)).run_stream(LONG) as answer:
            async for _ in answer.stream_text(delta=True, debounce_by=None):
                taken += 1
                if taken == TAKEN:
                    await answer.cancel()
                    break
        return taken

    return {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "quota": chat,
        "key": chat,
        "abort": abort,
    }


async def embeddings(access: Access) -> Any:
    embedder = Embedder(OpenAIEmbeddingModel(EMBEDDING_MODEL, provider=openai_provider(access)))
    found = await embedder.embed_documents(TEXTS)
    return [len(vector) for vector in found.embeddings]


if __name__ == "__main__":
    run(
        {
            "chat": {**cases(openai_chat), "embeddings": embeddings},
            "responses": cases(openai_responses),
            "messages": cases(claude),
        }
    )
