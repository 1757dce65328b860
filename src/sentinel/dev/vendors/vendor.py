"""OpenAI, and with it all that a vendor does who says nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sentinel.dev import chat, gemini, media, messages
from sentinel.dev.faults import retry_headers
from sentinel.dev.validation import Refused, trouble_of

if TYPE_CHECKING:
    from types import ModuleType

    from sentinel.dev.exchange import Exchange
    from sentinel.dev.generation import Job

    Headers = list[tuple[str, str]]

LISTING = "/v1/models"
GPT = (
    *("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-5", "gpt-5-mini", "o3", "o4-mini"),
    *("gpt-4-turbo", "gpt-4", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "davinci-002"),
    *("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"),
    *media.MODELS,
)
_FORMATS = '["chat", "completions", "embeddings", "responses", "messages", "gemini", "other"]'
"""The simulator speaks more than OpenAI does: who tries it has no other provider."""
CLAUDE = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")


class Vendor:
    """The habits of one vendor.

    name: as `sentinel dev --provider` has it. lines: what a file of providers says of it beside its url and its key.
    base: what the base URL of its clients ends in. model: one to try; models: all that there are.
    """

    name: ClassVar[str] = "openai"
    lines: ClassVar[str] = f'type = "openai"\nformats = {_FORMATS}'
    base: ClassVar[str] = "/v1"
    model: ClassVar[str] = "gpt-4o-mini"
    models: frozenset[str] = frozenset((*GPT, *CLAUDE, *gemini.MODELS))

    def admit(self, exchange: Exchange, key: str) -> None:
        """Make a request one to OpenAI: its path, and its body without what this vendor ignores.

        Raises Refused: without our key, where nothing is, and for what this vendor refuses and OpenAI does not.
        """
        if gemini.is_its(exchange.path):  # Its paths want the key in a header of their own.
            return
        # Anthropic, too, is shown it in a header of its own; who speaks its format beside OpenAI's takes a bearer's.
        if not (messages.is_its(exchange.path) and exchange.headers.get("x-api-key") == key):
            demand_bearer(exchange.headers, key)

    def listed(self, path: str) -> dict[str, Any]:
        """The answer to GET /v1/models, or to one of them. Raises Refused."""
        if path == LISTING:
            return {"object": "list", "data": [self.card(name) for name in sorted(self.models)]}
        name = path.removeprefix(f"{LISTING}/")
        if name not in self.models:
            raise Refused(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
        return self.card(name)

    def card(self, name: str) -> dict[str, Any]:
        """A model in the list."""
        return {"id": name, "object": "model", "created": 1_715_367_049, "owned_by": "system"}

    def said(self, job: Job) -> Job:
        """An answer to a chat, a completion or a response, as this vendor says it."""
        return job

    def error_body(self, path: str, refused: Refused) -> bytes:
        """A refusal in the shape that the format of this path has."""
        dialect = dialect_of(path)
        return refused.body if dialect is None else dialect.error_body(refused.status, str(refused))

    def trouble(self, path: str, status: int, retry_after: str | None) -> tuple[bytes, Headers]:
        """The body and the headers of an error that is this vendor's own fault, or about its limits."""
        dialect = dialect_of(path)
        body = self.error_body(path, trouble_of(status)) if dialect is None else dialect.status_body(status)
        return body, [*self.headers(path), *retry_headers(retry_after)]

    def headers(self, path: str) -> Headers:
        """Those that are on every answer."""
        headers: Headers = (dialect_of(path) or chat).headers()
        return headers


def dialect_of(path: str) -> ModuleType | None:
    """The format of this path, where it is not OpenAI's: a module with `error_body`, `status_body`, `headers`."""
    return messages if messages.is_its(path) else gemini if gemini.is_its(path) else None


def demand_bearer(headers: dict[str, str], key: str) -> None:
    """Raises Refused where the headers of a request do not have our key as OpenAI wants it."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Refused(401, "You didn't provide an API key in an Authorization header using Bearer auth.")
    if given != key:
        masked = f"{given[:8]}{'*' * 8}{given[-4:]}"
        message = f"Incorrect API key provided: {masked}. Find yours at https://platform.openai.com/account/api-keys."
        raise Refused(401, message, code="invalid_api_key")
