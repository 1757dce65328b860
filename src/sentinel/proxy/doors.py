"""Where the paths of each type of provider begin, and how it is shown our key. Decides.

Paths are OpenAI's (`/chat/completions`), Anthropic's (`/messages`), or Gemini's own, which name their version. Source:
the vendors' references, named in provider_presets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

VERSIONED_PATHS = (b"/v1beta/", b"/v1/")
"""What Gemini's own paths begin with at a provider: they name their version themselves."""

BEARER, X_API_KEY, API_KEY, GOOGLE = "authorization: Bearer ", "x-api-key: ", "api-key: ", "x-goog-api-key: "

_ANTHROPIC_PATHS = (b"/messages", b"/files", b"/models", b"/skills", b"/organizations")
_OF_DEPLOYMENTS = frozenset(
    (
        *(b"/chat/completions", b"/completions", b"/embeddings", b"/images/generations", b"/images/edits"),
        *(b"/audio/transcriptions", b"/audio/translations", b"/audio/speech"),
    )
)
"""What Azure has below a deployment; all else names one in its body. Source: openai-python, src/openai/lib/azure.py."""
_ENDS = ("/v1beta/openai", "/openai/v1", "/v1beta", "/v1")

ProviderType = Literal["openai", "azure", "anthropic", "gemini", "compatible"]


@dataclass(frozen=True, slots=True)
class Door:
    """url: what its paths are appended to. key: the header that has the key, up to it. begins: of its paths.

    is_googles: a key that is refused is told by 400.

    version: a header that a request must have, should its client have sent none. api_version: of Azure's deployments,
    most of which have the model in their path.
    """

    url: str
    key: str = BEARER
    begins: tuple[bytes, ...] = ()
    version: bytes = b""
    api_version: str = ""
    is_googles: bool = False

    def path(self, path: bytes, model: str) -> bytes:
        """A path as this door has it. model: as the provider names it."""
        if not self.api_version:
            return path
        path, _, query = path.partition(b"?")
        more = b"&" + query if query else b""
        # What is about no model is about no deployment.
        is_below = bool(model) and path in _OF_DEPLOYMENTS
        deployment = b"/deployments/" + quote(model, safe="").encode() if is_below else b""
        return b"%b%b?api-version=%b%b" % (deployment, path, self.api_version.encode(), more)

    def lines(self, header_lines: bytes) -> bytes:
        """The headers of a request, with the version that it must tell."""
        if not self.version or header_lines.find(self.version[: self.version.index(b":") + 1]) >= 0:
            return header_lines
        return header_lines + self.version


def doors_of(
    kind: ProviderType, url: str, api_version: str | None = None, *, by_token: bool = False
) -> tuple[Door, ...]:
    """The doors of a provider; the last one is for all paths that no other one begins.

    by_token: Azure is shown a token of Microsoft Entra, and no key.
    """
    url = url.rstrip("/")
    if kind == "anthropic":
        base = url if url.endswith("/v1") else f"{url}/v1"
        version = b"anthropic-version: 2023-06-01\r\n"
        return Door(base, X_API_KEY, _ANTHROPIC_PATHS, version), Door(base)
    if kind == "gemini":
        own = Door(root_of(url), GOOGLE, VERSIONED_PATHS, is_googles=True)
        return own, Door(f"{root_of(url)}/v1beta/openai", is_googles=True)
    if kind == "azure":
        root = root_of(url)
        header = BEARER if by_token else API_KEY
        if api_version is not None:
            return (Door(f"{root}/openai", header, api_version=api_version),)
        return (Door(f"{root}/openai/v1", header),)
    return Door(root_of(url), GOOGLE, VERSIONED_PATHS), Door(url)


def refuses_key(body: bytes) -> bool:
    """Whether this body of a 400 of Google's is about our key. Source: continuedev/continue#8516.

    What a client has sent may stand in it as a text, in which quotes are escaped.
    """
    return b'"API_KEY_INVALID"' in body


def root_of(url: str) -> str:
    """Where Gemini's own paths begin: beside the `/v1` that a URL ends in, or Google's door for OpenAI's clients."""
    url = url.rstrip("/")
    return next((url.removesuffix(end) for end in _ENDS if url.endswith(end)), url)
