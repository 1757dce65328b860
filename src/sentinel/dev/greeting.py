"""What `sentinel dev` says once it is ready: what runs where, and commands to paste, in 100 columns."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import dataclass

from sentinel.config import Settings
from sentinel.dev.folder import DataFolder
from sentinel.dev.simulators import Provider
from sentinel.dev.vendors.vendor import Vendor

_READY = """
Sentinel is ready at {url}

  store       {store}
  governance  {governance}
  provider    {provider}
  logs        {logs}
  stop        Ctrl-C
"""

_TRY = """
In another terminal, the demo user's token, and a first request:

export SENTINEL_TOKEN={token}

curl -s {url}/v1/chat/completions \\
  -H "Authorization: Bearer $SENTINEL_TOKEN" -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Say hello"}}]}}'

A streamed one:

curl -sN {url}/v1/chat/completions \\
  -H "Authorization: Bearer $SENTINEL_TOKEN" -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "stream": true,
       "messages": [{{"role": "user", "content": "Say hello"}}]}}'

The same with OpenAI's SDK{how}:

{python} - <<'PYTHON'
import os
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key=os.environ["SENTINEL_TOKEN"])
for chunk in client.chat.completions.create(
    model="{model}", stream=True, messages=[{{"role": "user", "content": "Say hello"}}]
):
    print(*(choice.delta.content or "" for choice in chunk.choices), sep="", end="", flush=True)
print()
PYTHON

{failover}Another user, with limits and a key of their own:

{sentinel} governance plan set small --requests 3 --period daily
{sentinel} governance user add ana@example.com --plan small
{sentinel} governance key add ana@example.com
"""


_FAILOVER = """\
Let the first provider fail, see who answers, and let it be well again:

curl -s {first}/_sim/faults -d '{{"status": 503}}'
curl -si {url}/v1/chat/completions \\
  -H "Authorization: Bearer $SENTINEL_TOKEN" -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Say hello"}}]}}'
curl -s {first}/_sim/faults -d '{{}}'

"""


def url_of(settings: Settings) -> str:
    """Where a client on this machine reaches Sentinel."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.sentinel_host, settings.sentinel_host)
    return f"http://{host}:{settings.sentinel_port}"


@dataclass(frozen=True)
class Demo:
    """Of the built-in governance: the demo user's token, where its data are, and what to paste for its commands."""

    token: str
    database: str
    sentinel: str


def greeting(
    settings: Settings,
    folder: DataFolder,
    stand_ins: frozenset[str],
    demo: Demo | None,
    simulated: tuple[Provider, Provider] | None,
    *,
    logs: str,
) -> str:
    """The whole text.

    stand_ins: the settings that are not given; demo: None where a Zion has the users; simulated: the first provider and
    the second one, where these are simulators.
    """
    url = url_of(settings)
    notes = {
        "redis_url": f" (embedded, its data in {folder.store})",
        "zion_api_url": f" (built in, its data in {demo.database if demo else ''})",
    }
    store, governance = (
        address + (notes[setting] if setting in stand_ins else "")
        for setting, address in (
            ("redis_url", settings.redis_url.rpartition("@")[2].removeprefix("redis://")),
            ("zion_api_url", settings.zion_api_url),
        )
    )
    provider = f"those of {settings.sentinel_config}" if settings.sentinel_config else settings.openai_api_url
    if simulated is not None:
        first, second = (each.vendor.name for each in simulated)
        what = "simulator" if first == Vendor.name else f"simulated {first}"
        other = second if second != first else "a second one"
        provider = f"{simulated[0].url} ({what}), and {other} where that fails"
    text = _READY.format(url=url, store=store, governance=governance, provider=provider, logs=logs)
    if demo is None:
        return text
    model = Vendor.model if simulated is None else simulated[0].vendor.model
    failover = "" if simulated is None else _FAILOVER.format(url=url, first=simulated[0].server.url, model=model)
    is_here = importlib.util.find_spec("openai") is not None
    python, how = (shlex.quote(sys.executable), "") if is_here else ("python3", " (pip install openai)")
    return text + _TRY.format(
        url=url, token=demo.token, python=python, how=how, sentinel=demo.sentinel, failover=failover, model=model
    )
