"""The processes of a run: the static provider and Zion, nginx as a proxy, Valkey, Sentinel."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import messages
from bench.machine import Process, listens
from sentinel.dev.ports import free_port

START_SECONDS = 20.0
ROOT = Path(__file__).resolve().parent.parent

# Generous limits: every window is kept and checked, and refuses nobody.
SETTINGS = {
    "ZION_API_KEY": "bench-zion-key",
    "OPENAI_API_KEY": "sk-bench-provider-key",
    "SENTINEL_HOST": "127.0.0.1",
    "RATE_LIMITS": "ai_requests=1000000/60s,ai_input_tokens=1000000000/60s,ai_output_tokens=1000000000/60s",
}

_COMMON = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
error_log {folder}/{name}.error.log error;
pid {folder}/{name}.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/json;
    client_body_temp_path {folder}/{name}.body;
    proxy_temp_path {folder}/{name}.proxy;
    fastcgi_temp_path {folder}/{name}.fastcgi;
    uwsgi_temp_path {folder}/{name}.uwsgi;
    scgi_temp_path {folder}/{name}.scgi;
    client_max_body_size 64m;
    client_body_buffer_size 2m;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    tcp_nodelay on;
    {http}
}}
"""

_UPSTREAM = """
    map $http_authorization $user {{ default "unknown"; "~(?<id>user-[0-9]+)$" $id; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /v1/chat/completions {{
            add_header x-request-id req_5d1fd1b8c7b64e0f9a3c;
            add_header openai-processing-ms 412;
            add_header openai-version 2020-10-01;
            return 200 '{completion}';
        }}
        location = /v1/embeddings {{ {embedded} }}
        location = /v1/files {{
            # Passed on to itself, as it answers by itself before it has the file.
            client_body_buffer_size 17m;
            proxy_pass http://127.0.0.1:{port}/taken;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }}
        location = /taken {{ return 200 '{uploaded}'; }}
        location = /v1/models {{ return 200 '{{"object":"list","data":[{{"id":"{model}","object":"model"}}]}}'; }}
        location = /api/v1/users/me {{
            return 200 '{{"success":true,"data":{{"id":"$user","email":"$user@bench.test","externalId":"$user"}}}}';
        }}
        location ~ ^/api/v1/limits/external/(?<asked>.+)$ {{
            return 200 '{{"success":true,"data":{{"userId":"u","externalId":"$asked","limits":[{limits}]}}}}';
        }}
        location /api/v1/usage/ {{ return 200 '{{"success":true,"data":{{"results":[]}}}}'; }}
        location / {{ return 404 '{{}}'; }}
    }}
"""

_PROXY = """
    upstream provider {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering {buffering};
            proxy_request_buffering {buffering};
            proxy_read_timeout 600s;
        }}
    }}
"""


def _limits() -> str:
    metric = {"limit": 10**15, "used": 0, "remaining": 10**15}
    limit = {
        "name": "ai_usage",
        "resetPeriod": "MONTHLY",
        "periodEnd": "2099-12-31T23:59:59Z",
        **dict.fromkeys(("aiRequests", "aiInputTokens", "aiOutputTokens"), metric),
    }
    return json.dumps(limit)


def _long_answer(body: str) -> str:
    """What makes nginx answer with this, piece by piece: a word of its configuration has at most 4 KB."""
    pieces = [body[start : start + 3_000] for start in range(0, len(body), 3_000)]
    parts = "".join(f"set $piece{number} '{piece}'; " for number, piece in enumerate(pieces))
    return f"{parts}return 200 '{''.join(f'$piece{number}' for number in range(len(pieces)))}';"


def _nginx() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit("nginx is not installed (apt-get install nginx-light)")
    return found


@contextlib.contextmanager
def _run_nginx(name: str, http: str, port: int, folder: Path, cpus: list[int] | None) -> Iterator[Process]:
    file = folder / f"{name}.conf"
    file.write_text(_COMMON.format(folder=folder, name=name, http=http))
    command = [_nginx(), "-p", str(folder), "-c", str(file), "-e", f"{folder}/{name}.start.log"]
    with Process(command, cpus=cpus, folder=folder, name=name) as process:
        process.wait_until(lambda: listens(port), START_SECONDS)
        yield process


@contextlib.contextmanager
def provider_and_zion(folder: Path) -> Iterator[int]:
    """Static answers of the provider and of Zion on one port."""
    port = free_port()
    http = _UPSTREAM.format(
        port=port,
        completion=messages.completion(),
        embedded=_long_answer(messages.embedded()),
        uploaded=messages.uploaded(),
        model=messages.MODEL,
        limits=_limits(),
    )
    with _run_nginx("upstream", http, port, folder, None):
        yield port


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a process that listens on a port."""

    name: str
    process: Process
    port: int
    start_seconds: float


@contextlib.contextmanager
def nginx_proxy(folder: Path, upstream: int, core: int, *, buffering: bool = True) -> Iterator[Subject]:
    """nginx as a plain reverse proxy, one worker."""
    port = free_port()
    http = _PROXY.format(port=port, upstream=upstream, buffering="on" if buffering else "off")
    started = time.monotonic()
    with _run_nginx(f"proxy-{port}", http, port, folder, [core]) as process:
        yield Subject("nginx", process, port, time.monotonic() - started)


@contextlib.contextmanager
def stream_provider(folder: Path, chunks_per_second: float) -> Iterator[int]:
    """A provider whose streams get so many chunks a second each."""
    port = free_port()
    command = [sys.executable, "-m", "bench.stream_server", str(port), str(chunks_per_second)]
    with Process(command, environment={"PYTHONPATH": str(ROOT)}, folder=folder, name=f"streams-{port}") as process:
        process.wait_until(lambda: listens(port), START_SECONDS)
        yield port


@contextlib.contextmanager
def sentinel(
    folder: Path, redis_url: str, zion: int, provider: int, cpus: list[int], workers: int = 1
) -> Iterator[Subject]:
    """The installed command, with everything on; its log goes to a file."""
    port = free_port()
    environment = {
        **SETTINGS,
        "ZION_API_URL": f"http://127.0.0.1:{zion}",
        "OPENAI_API_URL": f"http://127.0.0.1:{provider}/v1",
        "REDIS_URL": redis_url,
        "SENTINEL_PORT": str(port),
        "SENTINEL_WORKERS": str(workers),
        "SPOOL_DIR": str(folder / "spool"),
    }
    command = [sys.executable, "-m", "sentinel", "serve"]
    started = time.monotonic()
    with Process(command, cpus=cpus, environment=environment, folder=folder, name=f"sentinel-{port}") as process:
        process.wait_until(lambda: _is_ready(port), START_SECONDS)
        yield Subject("sentinel", process, port, time.monotonic() - started)


def _is_ready(port: int) -> bool:
    try:
        return bool(get(port, "/health/ready"))
    except OSError:
        return False


def get(port: int, path: str) -> str:
    """The body of a 200. Raises OSError for anything else."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def metric(port: int, name: str) -> float:
    """The sum of a metric's series; `name` may have labels."""
    lines = get(port, "/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
