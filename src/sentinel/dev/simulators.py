"""Simulators, listening: Zion with one user to play with, and providers, each in the habits of a vendor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sentinel.dev.accounts import SimUser
from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from sentinel.dev.vendors.anthropic import Anthropic
from sentinel.dev.vendors.azure import Azure
from sentinel.dev.vendors.gemini import Gemini
from sentinel.dev.vendors.openrouter import OpenRouter
from sentinel.dev.vendors.vendor import Vendor
from sentinel.dev.vendors.vllm import Vllm
from sentinel.dev.zion import ZionSimulator

VENDORS: dict[str, type[Vendor]] = {
    vendor.name: vendor for vendor in (Vendor, Azure, Anthropic, Gemini, Vllm, OpenRouter)
}
"""By the name that `sentinel dev --provider` takes."""

DEMO_EMAIL = "demo@example.com"
DEMO_EXTERNAL_ID = "demo"
DEMO_LIMITS: dict[str, int | None] = {
    "ai_requests": 100_000,
    "ai_input_tokens": 50_000_000,
    "ai_output_tokens": 10_000_000,
}

DEMO_TOKEN = "sk-sentinel-demo"  # noqa: S105  Opens nothing but simulators; `sentinel dev` has a secret one.


@dataclass(frozen=True)
class Provider:
    """A running provider. `url` is what goes into a file of providers."""

    simulator: OpenAISimulator
    server: Server

    @property
    def vendor(self) -> Vendor:
        """Whose habits it has."""
        return self.simulator.vendor

    @property
    def url(self) -> str:
        """Its address, as the vendor's own SDK takes it."""
        return f"{self.server.url}{self.vendor.base}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()


@dataclass(frozen=True)
class Simulators:
    """Two running simulators. `zion_url` and `openai_url` are what goes into ZION_API_URL and OPENAI_API_URL."""

    zion: ZionSimulator
    openai: OpenAISimulator
    zion_server: Server
    openai_server: Server
    demo_user: SimUser
    demo_token: str

    @property
    def zion_url(self) -> str:
        """The address of Zion, without a slash at the end."""
        return self.zion_server.url

    @property
    def openai_url(self) -> str:
        """The address of OpenAI including /v1."""
        return f"{self.openai_server.url}/v1"

    @property
    def zion_key(self) -> str:
        """The key that Zion accepts as x-api-key."""
        return self.zion.api_key

    @property
    def openai_key(self) -> str:
        """The key that OpenAI accepts."""
        return self.openai.api_key

    def stop(self) -> None:
        """Make both go away at once."""
        self.openai_server.stop()
        self.zion_server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_provider(vendor: Vendor, host: str = "127.0.0.1", port: int = 0) -> Provider:
    """Start a provider. A port of 0 picks a free one. Raises what `Server.start` raises."""
    simulator = OpenAISimulator(vendor=vendor)
    return Provider(simulator, Server(simulator.app, host, port).start())


def start_simulators(
    host: str = "127.0.0.1",
    zion_port: int = 0,
    openai_port: int = 0,
    *,
    demo_token: str = DEMO_TOKEN,
    vendor: Vendor | None = None,
) -> Simulators:
    """Start Zion and OpenAI with the demo user and a token of theirs that never expires. A port of 0 picks a free one.

    vendor: of another provider than OpenAI. Raises what `Server.start` raises; nothing is left running then.
    """
    zion, openai = ZionSimulator(), OpenAISimulator(vendor=vendor)
    user = zion.add_user(DEMO_EMAIL, name="Demo User", external_id=DEMO_EXTERNAL_ID, limits=DEMO_LIMITS)
    zion.add_token(user, demo_token)
    zion_server = Server(zion.app, host, zion_port).start()
    try:
        openai_server = Server(openai.app, host, openai_port).start()
    except BaseException:
        zion_server.stop()
        raise
    return Simulators(zion, openai, zion_server, openai_server, user, demo_token)
