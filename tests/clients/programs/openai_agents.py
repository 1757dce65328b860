"""openai-agents: an agent over responses (its way) and over chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.program import CALL, LONG, SAY, TAKEN, Access, run

set_tracing_disabled(True)
CALLED: list[dict[str, str]] = []


class City(BaseModel):
    name: str
    people: int


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    CALLED.append({"city": city})
    return f"Sunny in {city}"


def cases(kind: Any) -> dict[str, Callable[[Access], Any]]:
    """What is the same for both ways."""

    def agent(access: Access, **more: Any) -> Any:
        model = kind(model=access.model, openai_client=AsyncOpenAI(base_url=access.v1, api_key=access.token))
        return Agent(name="Guide", model=model, **more)

    async def chat(access: Access) -> Any:
        return (await Runner.run(agent(access), SAY)).final_output

    async def stream(access: Access) -> Any:
        events = Runner.run_streamed(agent(access), SAY).stream_events()
        raw = [event.data async for event in events if event.type == "raw_response_event"]
        return [event.delta for event in raw if event.type == "response.output_text.delta"]

    async def tools(access: Access) -> Any:
        await Runner.run(agent(access, tools=[weather]), CALL)
        (call,) = CALLED
        return call

    async def structured(access: Access) -> Any:
        return (await Runner.run(agent(access, output_type=City), SAY)).final_output.model_dump()

    async def abort(access: Access) -> Any:
        taken, run_of_it = 0, Runner.run_streamed(agent(access), LONG)
        async for event in run_of_it.stream_events():
            taken += event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
            if taken == TAKEN:
                run_of_it.cancel()
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


if __name__ == "__main__":
    run({"responses": cases(OpenAIResponsesModel), "chat": cases(OpenAIChatCompletionsModel)})
