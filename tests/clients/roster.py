"""The clients that are tried, what is tried with each, and the tables of docs/clients.md that tell of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements/clients"
PAGE = ROOT / "docs/clients.md"
NPM = "npm"
_END = "<!-- to here -->\n"

CHAT, COMPLETE, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPOND, MESSAGE = "/v1/responses", "/v1/messages"
GENERATE = ("generateContent", "streamGenerateContent", "batchEmbedContents")
FILES = "/v1/{path}"
FORMATS = {CHAT: "chat", RESPOND: "responses", MESSAGE: "messages"}
"""What a client speaks, by the route that it asks first; any other is Gemini's."""
WITHOUT_THOUGHT = "gemini-2.0-flash"
MODELS = {
    "chat": "gpt-4o-mini",
    "responses": "gpt-4o-mini",
    "messages": "claude-haiku-5-5",
    "gemini": "gemini-3-pro-preview",
}
"""The model that is asked, by the format of its provider. Who leaves one that thinks unseen pays for thoughts, too."""
TRANSLATIONS = {"chat": ("messages", "gemini"), "responses": ("chat",), "messages": ("chat",)}
"""What a client's format is translated into."""


@dataclass(frozen=True)
class Row:
    """One way of one client.

    package: as its registry calls it. place: the set of requirements/clients/ that has it, or `npm`. program: in
    programs/; none for a command. way: what the program calls it. asks: the routes that it may ask. quota_asks: how
    often it asks where a quota is used up, before it tells. provider: the format that the model's provider speaks,
    where it is not the client's.
    """

    client: str
    package: str
    place: str
    program: str | None
    way: str
    asks: tuple[str, ...]
    cases: tuple[str, ...]
    quota_asks: int = 1
    provider: str = ""

    @property
    def format(self) -> str:
        """What it speaks."""
        return FORMATS.get(self.asks[0], "gemini")

    def model(self, case: str) -> str:
        """The one that it asks."""
        provider = self.provider or self.format
        return WITHOUT_THOUGHT if (provider, case) == ("gemini", "abort") else MODELS[provider]

    @property
    def version(self) -> str:
        """The one that is locked."""
        if self.place == NPM:
            return str(
                json.loads((LOCKS / "package-lock.json").read_text())["packages"][f"node_modules/{self.package}"][
                    "version"
                ]
            )
        found = re.search(
            rf"^{re.escape(self.package)}==(\S+)", (LOCKS / f"{self.place}.txt").read_text(), re.MULTILINE
        )
        assert found is not None, self.package
        return found[1]

    @property
    def id(self) -> str:
        """How a test of it is called."""
        return f"{self.client} {self.format}_to_{self.provider}" if self.provider else self.client

    @property
    def told(self) -> str:
        """What the page says of it, up to its result."""
        asks = f"`{self.format}->{self.provider}`" if self.provider else ", ".join(f"`{each}`" for each in self.asks)
        return f"| {self.client} | {self.package} {self.version} | {asks} | {', '.join(self.cases)} | "

    def result(self, failed: Iterable[str]) -> str:
        """What came of it."""
        names = ", ".join(failed)
        if names:
            return f"fails: {names}"
        return "works" if self.quota_asks == 1 else f"works; asks {self.quota_asks} times where a quota is used up"


ALL = ("chat", "stream", "tools", "structured", "quota", "key", "abort")
WITH_EMBEDDINGS = (*ALL, "embeddings")
WITH_FILES = (*WITH_EMBEDDINGS, "upload")
SESSION = ("tools", "quota", "key")
GEMINI = tuple(f"/v1beta/models/{{model}}:{method}" for method in GENERATE)

ROWS = (
    Row("OpenAI's SDK for Python", "openai", "sdks", "openai_python.py", "chat", (CHAT, EMBED, FILES), WITH_FILES),
    Row("OpenAI's SDK for Python", "openai", "sdks", "openai_python.py", "responses", (RESPOND,), ALL),
    Row(
        "OpenAI's SDK for Python, the version before",
        "openai",
        "llama-index",
        "openai_python.py",
        "chat",
        (CHAT, EMBED, FILES),
        WITH_FILES,
    ),
    Row(
        "OpenAI's SDK for Python, the version before",
        "openai",
        "llama-index",
        "openai_python.py",
        "responses",
        (RESPOND,),
        ALL,
    ),
    Row("OpenAI's SDK for Node", "openai", NPM, "openai_node.mjs", "chat", (CHAT, EMBED, FILES), WITH_FILES),
    Row("OpenAI's SDK for Node", "openai", NPM, "openai_node.mjs", "responses", (RESPOND,), ALL),
    Row("Anthropic's SDK for Python", "anthropic", "sdks", "anthropic_python.py", "messages", (MESSAGE,), ALL),
    Row("Google's SDK for Python", "google-genai", "sdks", "google_python.py", "gemini", GEMINI, WITH_EMBEDDINGS),
    Row("LangChain, `ChatOpenAI`", "langchain-openai", "sdks", "langchain.py", "chat", (CHAT, EMBED), WITH_EMBEDDINGS),
    Row(
        "LangChain, `ChatOpenAI` with `use_responses_api`",
        "langchain-openai",
        "sdks",
        "langchain.py",
        "responses",
        (RESPOND,),
        ALL,
    ),
    Row("LangChain, `ChatAnthropic`", "langchain-anthropic", "sdks", "langchain.py", "messages", (MESSAGE,), ALL),
    Row(
        "LlamaIndex, `OpenAI`",
        "llama-index-llms-openai",
        "llama-index",
        "llama_index.py",
        "chat",
        (CHAT, EMBED),
        WITH_EMBEDDINGS,
        3,
    ),
    Row(
        "LlamaIndex, `OpenAILike`",
        "llama-index-llms-openai-like",
        "llama-index",
        "llama_index.py",
        "like",
        (CHAT,),
        ALL,
        3,
    ),
    Row(
        "LlamaIndex, `OpenAIResponses`",
        "llama-index-llms-openai",
        "llama-index",
        "llama_index.py",
        "responses",
        (RESPOND,),
        ALL,
        3,
    ),
    Row(
        "pydantic-ai, `OpenAIChatModel`",
        "pydantic-ai-slim",
        "sdks",
        "pydantic_ai.py",
        "chat",
        (CHAT, EMBED),
        WITH_EMBEDDINGS,
    ),
    Row(
        "pydantic-ai, `OpenAIResponsesModel`",
        "pydantic-ai-slim",
        "sdks",
        "pydantic_ai.py",
        "responses",
        (RESPOND,),
        ALL,
    ),
    Row("pydantic-ai, `AnthropicModel`", "pydantic-ai-slim", "sdks", "pydantic_ai.py", "messages", (MESSAGE,), ALL),
    Row("openai-agents", "openai-agents", "agents", "openai_agents.py", "responses", (RESPOND,), ALL),
    Row(
        "openai-agents, `OpenAIChatCompletionsModel`",
        "openai-agents",
        "agents",
        "openai_agents.py",
        "chat",
        (CHAT,),
        ALL,
    ),
    Row(
        "instructor, `Mode.TOOLS`",
        "instructor",
        "agents",
        "instructor.py",
        "tools",
        (CHAT,),
        ("structured", "stream", "quota", "key"),
    ),
    Row(
        "instructor, `Mode.JSON_SCHEMA`",
        "instructor",
        "agents",
        "instructor.py",
        "json",
        (CHAT,),
        ("structured", "stream", "quota", "key"),
    ),
    Row("llm", "llm", "agents", "llm.py", "chat", (CHAT,), ALL),
    Row("Vercel's AI SDK", "@ai-sdk/openai", NPM, "ai_sdk.mjs", "responses", (RESPOND, EMBED), WITH_EMBEDDINGS, 3),
    Row("Vercel's AI SDK, `.chat()`", "@ai-sdk/openai", NPM, "ai_sdk.mjs", "chat", (CHAT,), ALL, 3),
)
CODEX = tuple(
    Row(f"Codex CLI, {how}", "@openai/codex", NPM, None, way, (RESPOND,), ("tools",))
    for way, how in (("websockets", "over a WebSocket"), ("http", "over HTTP"))
)
CLAUDE_CODE = Row("Claude Code", "@anthropic-ai/claude-code", NPM, None, "messages", (MESSAGE,), SESSION)
OWN_MODELS_ONLY = ("LlamaIndex, `OpenAI`",)
"""They refuse names of models that their vendor does not have."""
DIRECT = (*ROWS, *CODEX, CLAUDE_CODE)
TRANSLATED = tuple(
    replace(row, asks=row.asks[:1], cases=tuple(case for case in row.cases if case in ALL), provider=provider)
    for row in DIRECT
    for provider in TRANSLATIONS.get(row.format, ())
    if row.client not in OWN_MODELS_ONLY
)
"""The same ones in front of providers that do not speak their format, with what is translated."""


@dataclass(frozen=True)
class _Table:
    """One of the page. begin: the line before it; asked: its third column."""

    begin: str
    asked: str
    rows: tuple[Row, ...]

    @property
    def head(self) -> str:
        """Its first lines."""
        return f"{self.begin}\n| client | package | {self.asked} | tried | result |\n|---|---|---|---|---|\n"


_TABLES = (
    _Table("<!-- written by `make clients` -->", "asks", DIRECT),
    _Table("<!-- translated, written by `make clients` -->", "translated", TRANSLATED),
)


def page_rows() -> dict[str, str]:
    """The rows that the page has now: what is told of each client, and its result."""
    page = PAGE.read_text()
    rows = {}
    for table in _TABLES:
        for line in page.partition(table.head)[2].partition(_END)[0].splitlines():
            told, _, result = line.removesuffix(" |").rpartition(" | ")
            rows[f"{told} | "] = result
    return rows


def write_page(results: dict[Row, str]) -> None:
    """Put the results of these rows into the page; what it tells of others stays as it is."""
    known = page_rows() | {row.told: result for row, result in results.items()}
    page = PAGE.read_text()
    for table in _TABLES:
        before, _, rest = page.partition(table.head)
        lines = [f"{row.told}{known.get(row.told, 'not tried')} |\n" for row in table.rows]
        page = f"{before}{table.head}{''.join(lines)}{_END}{rest.partition(_END)[2]}"
    PAGE.write_text(page)
