"""Azure OpenAI: deployments in place of models, a key in a header of its own, and what its content filter says."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.bodies import Envelope, Event
from sentinel.dev.validation import Refused, decode_body, trouble_of
from sentinel.dev.vendors.altered import Altered, as_event
from sentinel.dev.vendors.vendor import GPT, LISTING, Vendor, dialect_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sentinel.dev.directive import Directive
    from sentinel.dev.exchange import Exchange
    from sentinel.dev.generation import Job
    from sentinel.dev.reply import Reply
    from sentinel.dev.vendors.vendor import Headers

_V1 = "/openai/v1/"
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)(/chat/completions|/completions|/embeddings)")
"""What is below a deployment; all else is beside them, and names one in its body. Source: openai/openai-python,
src/openai/lib/azure.py, `_deployments_endpoints` (images and sounds are left out here)."""
_BESIDE = {"/openai/models": LISTING, "/openai/responses": "/v1/responses"}
_VERSION = re.compile(r"(?:^|&)api-version=\d{4}-\d\d-\d\d(?:-preview)?(?:&|$)")
_RETRY_SECONDS = "6"

_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
_OF_PROMPT = {**_SAFE, "jailbreak": {"filtered": False, "detected": False}}
_PROMPT = [{"prompt_index": 0, "content_filter_results": _OF_PROMPT}]
"""Source: CoderCookE/vim-llm-agent#37."""


class Azure(Vendor):
    """The v1 API at /openai/v1, and deployments with `api-version` at /openai/deployments/NAME.

    deployments: their names, and the model of each; OpenAI's own names where none are given.
    """

    name = "azure"
    lines = 'type = "azure"'
    base = ""

    def __init__(self, deployments: Mapping[str, str] | None = None) -> None:
        self.deployments = {name: name for name in GPT} if deployments is None else deployments
        self.models = frozenset(self.deployments.values())

    def admit(self, exchange: Exchange, key: str) -> None:
        """See Vendor.

        The key is in `api-key`, or a Bearer token, as the v1 API takes it of OpenAI's own client; with deployments that
        would be a token of Microsoft Entra. Source: learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle.
        """
        given = exchange.headers.get("api-key") or exchange.headers.get("authorization", "").removeprefix("Bearer ")
        if given != key:
            raise _no_key()
        is_v1 = exchange.path.startswith(_V1)
        path = f"/v1/{exchange.path.removeprefix(_V1)}" if is_v1 else _BESIDE.get(exchange.path)
        below = _DEPLOYMENT.fullmatch(exchange.path)
        if below is not None:
            path = f"/v1{below[2]}"
            exchange.raw = msgspec.json.encode({**decode_body(exchange.raw), "model": below[1]})
        if path is None or dialect_of(path) is not None or not (is_v1 or _VERSION.search(exchange.query)):
            # Of a wrong version, too: learn.microsoft.com/answers/questions/1360789.
            raise _Front(404, "Resource not found", code="404")
        exchange.path = path
        self._deploy(exchange)

    def _deploy(self, exchange: Exchange) -> None:
        """Put the model in place of its deployment."""
        is_json = exchange.headers.get("content-type", "application/json").startswith("application/json")
        if exchange.method != "POST" or not is_json or not exchange.raw:
            return
        body = decode_body(exchange.raw)
        deployment = body.get("model")
        if isinstance(deployment, str):
            if deployment not in self.deployments:
                raise _no_deployment()
            exchange.raw = msgspec.json.encode({**body, "model": self.deployments[deployment]})

    def card(self, name: str) -> dict[str, Any]:
        """Source: learn.microsoft.com/rest/api/azureopenai/models/list."""
        capabilities = {"fine_tune": False, "inference": True, "completion": True, "chat_completion": True}
        told = {"status": "succeeded", "capabilities": capabilities, "lifecycle_status": "generally-available"}
        return {"id": name, "object": "model", "created_at": 1_715_367_049, **told}

    def said(self, job: Job) -> Job:
        """See Vendor."""
        form = _Form(job) if isinstance(job.form, Envelope) else job.form
        return replace(job, form=form, headers=partial(self.headers, LISTING))

    def error_body(self, path: str, refused: Refused) -> bytes:  # noqa: ARG002  No path has another format.
        """In the shape that the refusal has."""
        return refused.body

    def trouble(self, path: str, status: int, retry_after: str | None) -> tuple[bytes, Headers]:
        """A 429 always says when to come again. Source: icereed/paperless-gpt#814. A 400 is the content filter's."""
        seconds = retry_after or (_RETRY_SECONDS if status == 429 else None)
        headers = self.headers(path)
        if seconds is not None:
            in_ms = [("retry-after-ms", f"{seconds}000")] if seconds.isdecimal() else []
            headers = [*headers, ("retry-after", seconds), *in_ms]
        match status:
            case 400:
                return _FILTERED, headers
            case 401:
                return _no_key().body, headers
            case 404:
                return _no_deployment().body, headers
            case 429:
                message = (
                    "Your requests to gpt-4o-mini for gpt-4o-mini in Sweden Central have exceeded the token rate limit "
                    f"for your current AIServices S0 pricing tier. Please retry after {seconds} seconds."
                )
                return _Front(status, message, code="429").body, headers
            case _:
                return trouble_of(status).body, headers

    def headers(self, path: str) -> Headers:  # noqa: ARG002  They are the same everywhere.
        """Source: langchain-ai/langchainjs#5754, sashabaranov/go-openai#451."""
        return [
            ("apim-request-id", secrets.token_hex(16)),
            ("x-request-id", secrets.token_hex(16)),
            ("x-ms-region", "Sweden Central"),
            ("x-ms-rai-invoked", "true"),
            ("x-ratelimit-remaining-requests", "99"),
            ("x-ratelimit-remaining-tokens", "99985"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
            ("x-content-type-options", "nosniff"),
        ]


class _Front(Refused):
    """What the service in front of the models says: a code and a message. What the models say has OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str) -> None:
        super().__init__(status, message, code=code)
        self.body = msgspec.json.encode({"error": {"code": code, "message": message}})


def _no_key() -> Refused:
    """Source: SciSharp/BotSharp#386."""
    message = (
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource."
    )
    return _Front(401, message, code="401")


def _no_deployment() -> Refused:
    """Source: chatboxai/chatbox#646."""
    message = (
        "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
        "please wait a moment and try again."
    )
    return _Front(404, message, code="DeploymentNotFound")


_FILTERED = msgspec.json.encode(
    {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
            "policy. Please modify your prompt and retry.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {**_OF_PROMPT, "violence": {"filtered": True, "severity": "medium"}},
            },
        }
    }
)
"""Of a prompt that the filter stops. Source: compl-ai/compl-ai#20."""


class _Form(Altered):
    """What the filter found is in each answer, and, before a stream, in a chunk of its own, which has no choices.

    Source: langroid/langroid#292 (a stream), lobehub/lobehub#1192 (a whole answer).
    """

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        choices = [{**choice, "content_filter_results": _SAFE} for choice in answer["choices"]]
        return {**answer, "choices": choices, "prompt_filter_results": _PROMPT}

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        said = [choice.get("text") or choice.get("delta", {}).get("content") for choice in chunk["choices"]]
        found = [_SAFE if text else {} for text in said]
        choices = [
            {**choice, "content_filter_results": each} for choice, each in zip(chunk["choices"], found, strict=True)
        ]
        return {**chunk, "choices": choices}

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        empty = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": _PROMPT}
        yield Event(as_event(empty))
        yield from super().events(replies, directive)
