"""`sentinel dev`: everything in one command, with no setting. What is set replaces its stand-in by the real thing."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn

from sentinel import logs, server
from sentinel.app import App
from sentinel.config import ConfigError, Settings, load_settings, settings_given, settings_warnings
from sentinel.dev.simulators import Simulators, start_simulators
from sentinel.dev.store import EmbeddedStore

ZION_PORT, OPENAI_PORT = 9001, 9002

_READY = """
Sentinel is ready at {url}   (docs: README.md; stop: Ctrl-C)

  store     {store}
  Zion      {zion}
  provider  {provider}
"""

_TRY = """
The demo user's token:

export SENTINEL_TOKEN='{token}'

A first request:

curl -s {url}/v1/chat/completions \\
  -H "Authorization: Bearer {token}" -H 'Content-Type: application/json' \\
  -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Say hello"}}]}}'

A streamed one:

curl -sN {url}/v1/chat/completions \\
  -H "Authorization: Bearer {token}" -H 'Content-Type: application/json' \\
  -d '{{"model": "gpt-4o-mini", "stream": true, "messages": [{{"role": "user", "content": "Say hello"}}]}}'

The same with OpenAI's SDK (pip install openai):

{python} - <<'PYTHON'
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{token}")
messages = [{{"role": "user", "content": "Say hello"}}]
print(client.chat.completions.create(model="gpt-4o-mini", messages=messages).choices[0].message.content)
for chunk in client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
PYTHON
"""


def simulate() -> int:
    """Run only the simulators, on all addresses, until a signal comes."""
    try:
        running = start_simulators("0.0.0.0", ZION_PORT, OPENAI_PORT)
    except OSError as error:
        raise ConfigError([f"ports {ZION_PORT} and {OPENAI_PORT} are for the simulators: {error.strerror}"]) from None
    with running as simulators:
        print(
            f"Zion at port {ZION_PORT} (key {simulators.zion_key}), OpenAI at port {OPENAI_PORT}/v1 "
            f"(key {simulators.openai_key})\nThe demo user's token:\n{simulators.demo_token}",
            flush=True,
        )
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
    return 0


def run(data: str) -> int:
    """Run Sentinel and a stand-in for each of REDIS_URL, ZION_API_URL and OPENAI_API_KEY that is not set."""
    given = settings_given()
    with contextlib.ExitStack() as stack:
        overrides: dict[str, Any] = {}
        simulators: Simulators | None = None
        if not given >= {"zion_api_url", "openai_api_key"}:
            simulators = stack.enter_context(start_simulators())
        if "redis_url" not in given:
            overrides["redis_url"] = stack.enter_context(_store(Path(data) / "store")).url
        if simulators and "zion_api_url" not in given:
            overrides |= {"zion_api_url": simulators.zion_url, "zion_api_key": simulators.zion_key}
        if simulators and "openai_api_key" not in given:
            overrides |= {"openai_api_url": simulators.openai_url, "openai_api_key": simulators.openai_key}
        if "spool_dir" not in given:
            overrides["spool_dir"] = str(Path(data) / "spool")
        if "sentinel_host" not in given:
            overrides["sentinel_host"] = "127.0.0.1"
        settings = load_settings(**overrides)
        for warning in settings_warnings(settings):
            print(f"Warning: {warning}.", file=sys.stderr)
        return _serve(settings, simulators if "zion_api_url" in overrides else None)


def _store(folder: Path) -> EmbeddedStore:
    try:
        return EmbeddedStore(folder).start()
    except ModuleNotFoundError as error:
        raise ConfigError([f"REDIS_URL is not set, and {error.name} is missing: install sentinel[dev]"]) from None


def _serve(settings: Settings, simulators: Simulators | None) -> int:
    listeners = server.listeners_for(settings)
    lines = logs.configure(settings.effective_log_level)
    config = server.config_for(App(settings, lines), settings)
    try:
        return server.run(_Announcing(config, _greeting(settings, simulators)), listeners)
    finally:
        lines.close()


def _greeting(settings: Settings, simulators: Simulators | None) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.sentinel_host, settings.sentinel_host)
    url = f"http://{host}:{settings.sentinel_port}"
    text = _READY.format(
        url=url,
        store=settings.redis_url.partition("?")[0].rpartition("@")[2].removeprefix("redis://"),
        zion=settings.zion_api_url,
        provider=settings.openai_api_url,
    )
    if simulators is None:
        return text
    python = shlex.quote(sys.executable) if importlib.util.find_spec("openai") else "python3"
    return text + _TRY.format(url=url, token=simulators.demo_token, python=python)


class _Announcing(uvicorn.Server):
    """uvicorn's server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: Any = None) -> None:
        """Start, then greet."""
        await super().startup(sockets)
        if self.started:
            print(self._greeting, flush=True)
