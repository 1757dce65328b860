"""Closed-loop load with wrk: each connection sends its next request when it has the answer."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench import messages

# One prepared request for each user, in turn.
_SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "{type}"
wrk.headers["Accept"] = "application/json"
wrk.headers["User-Agent"] = "OpenAI/Python 1.99.0"
local requests, turn = {{}}, 0
init = function(args)
  for i = 1, {users} do
    wrk.headers["Authorization"] = "Bearer " .. ("{token}"):gsub("000000$", ("%06d"):format(i - 1))
    requests[i] = wrk.format()
  end
end
request = function()
  turn = turn % {users} + 1
  return requests[turn]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(("RESULT {{\\"requests\\":%d,\\"us\\":%d,\\"p50\\":%d,\\"p99\\":%d,\\"errors\\":%d}}\\n"):format(
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


_numbers = count()


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. p50_ms, p99_ms: of the time from a request to its answer."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float


def run(
    port: int,
    connections: int,
    seconds: float,
    folder: Path,
    users: int = messages.USERS,
    post: messages.Post = messages.USUAL,
) -> Load:
    """Load the port with this request of so many users. Raises RuntimeError for any answer that is no 2xx."""
    number = next(_numbers)
    body, script = folder / f"body-{number}", folder / f"load-{number}.lua"
    body.write_bytes(post.body)
    script.write_text(_SCRIPT.format(body=body, type=post.type, users=users, token=messages.token(0)))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(script)]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{post.path}"], capture_output=True, text=True, check=True)
    body.unlink()
    result = json.loads(done.stdout.rpartition("RESULT ")[2])
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} of {result['requests']} requests failed:\n{done.stdout}")
    return Load(result["requests"], result["requests"] / result["us"] * 1e6, result["p50"] / 1000, result["p99"] / 1000)
