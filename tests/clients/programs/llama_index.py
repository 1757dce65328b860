"""LlamaIndex: its classes for OpenAI, and the one for models that these do not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients.program import CALL, EMBEDDING_MODEL, LONG, SAY, TAKEN, TEXTS, Access, run


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}"


def said(text: str) -> list[Any]:
    return [ChatMessage(role="user", content=text)]


def cases(kind: Any, **abilities: bool) -> dict[str, Callable[[Access], Any]]:
    """What is the same for all classes. abilities: of the model, where its class does not know it."""

    def model(access: Access) -> Any:
        return kind(model=access.model, api_base=access.v1, api_key=access.token, **abilities)

    def chat(access: Access) -> Any:
        return model(access).chat(said(SAY)).message.content

    def stream(access: Access) -> Any:
        return [piece.delta for piece in model(access).stream_chat(said(SAY)) if piece.delta]

    def tools(access: Access) -> Any:
        llm = model(access)
        answer = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=CALL)
        (call,) = llm.get_tool_calls_from_response(answer)
        return call.tool_kwargs

    def structured(access: Access) -> Any:
        return model(access).as_structured_llm(City).chat(said(SAY)).raw.model_dump()

    async def abort(access: Access) -> Any:
        taken = 0
        async for piece in await model(access).astream_chat(said(LONG)):
            taken += bool(piece.delta)
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
    model = OpenAIEmbedding(model=EMBEDDING_MODEL, api_base=access.v1, api_key=access.token)
    return [len(vector) for vector in model.get_text_embedding_batch(TEXTS)]


if __name__ == "__main__":
    run(
        {
            "chat": {**cases(OpenAI), "embeddings": embeddings},
            "like": cases(OpenAILike, is_chat_model=True, is_function_calling_model=True),
            "responses": cases(OpenAIResponses),
        }
    )
