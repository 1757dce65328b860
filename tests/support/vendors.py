"""A simulated provider in the habits of a vendor, and plain requests to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sentinel.dev.simulators import Provider, start_provider
from sentinel.dev.vendors.vendor import Vendor
from tests.support.client import Answer, request

KEY = "sk-sim-openai-key"


class VendorClient:
    """Asks a provider. headers: the key as this vendor wants it, if nothing else is said."""

    def __init__(self, provider: Provider, headers: dict[str, str]) -> None:
        self.provider = provider
        self.headers = headers

    def post(self, target: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        """A JSON body, or bytes. target: as it goes over the wire."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return request(self.provider.server.port, "POST", target, raw, self._all(headers))

    def get(self, target: str, headers: dict[str, str] | None = None) -> Answer:
        """GET."""
        return request(self.provider.server.port, "GET", target, None, self._all(headers))

    def _all(self, headers: dict[str, str] | None) -> dict[str, str]:
        return {"content-type": "application/json", **(self.headers if headers is None else headers)}


@contextmanager
def asked(vendor: Vendor, **headers: str) -> Iterator[VendorClient]:
    """A running provider of this vendor, and its client. headers: with underscores for dashes."""
    with start_provider(vendor) as provider:
        yield VendorClient(provider, {name.replace("_", "-"): value for name, value in headers.items()})


def chat(text: str = "hi", *, model: str, **fields: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}
