"""LangChain: langchain-openai over chat and responses, langchain-anthropic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

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


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}"


def openai_chat(access: Access) -> Any:
    return ChatOpenAI(model=access.model, base_url=access.v1, api_key=access.token)


def openai_responses(access: Access) -> Any:
    return ChatOpenAI(model=access.model, base_url=access.v1, api_key=access.token, use_responses_api=True)


def claude(access: Access) -> Any:
    return ChatAnthropic(model=access.model, base_url=access.url, api_key=access.token, max_tokens=1000)


def cases(model: Callable[[Access], Any]) -> dict[str, Callable[[Access], Any]]:
    """What is the same for all models of LangChain."""

    def chat(access: Access) -> Any:
        return model(access).invoke(SAY).text

    def stream(access: Access) -> Any:
        return [chunk.text for chunk in model(access).stream(SAY) if chunk.text]

    def tools(access: Access) -> Any:
        (call,) = model(access).bind_tools([weather]).invoke(CALL).tool_calls
        return call["args"]

    def structured(access: Access) -> Any:
        return model(access).with_structured_output(City).invoke(SAY).model_dump()

    async def abort(access: Access) -> Any:
        taken = 0
        async for chunk in model(access).astream(LONG):
            taken += bool(chunk.text)
            if taken == TAKEN:
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


def embeddings(access: Access) -> Any:
    # It would load a vocabulary from the internet, to part texts that are too long.
    as_it_is: Any = {"check_embedding_ctx_length": False}
    key: Any = access.token
    model = OpenAIEmbeddings(model=EMBEDDING_MODEL, base_url=access.v1, api_key=key, **as_it_is)
    return [len(vector) for vector in model.embed_documents(TEXTS)]


if __name__ == "__main__":
    run(
        {
            "chat": {**cases(openai_chat), "embeddings": embeddings},
            "responses": cases(openai_responses),
            "messages": cases(claude),
        }
    )
