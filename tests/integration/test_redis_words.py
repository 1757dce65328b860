"""What Redis writes into an error may hold keys, and names in them: none of that reaches a log or an answer."""

from __future__ import annotations

import contextlib
import signal
import traceback
from pathlib import Path

import hiredis
import pytest
from redis import Redis

from sentinel.cache.redis import Script, Store
from sentinel.dev.store import EmbeddedStore
from sentinel.diagnosis import plain
from sentinel.error import RedisUnavailable
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until

EMAIL = "private.person@corp.test"


@pytest.mark.parametrize("how", ["renamed", "no rights", "full", "broken account"])
def test_no_log_line_has_what_redis_says_of_a_key(tmp_path: Path, how: str) -> None:
    """A user whose id is an e-mail address, and a Redis that refuses, whatever for; at every level."""
    extra = {}
    if how == "renamed":
        (tmp_path / "renamed.conf").write_text('rename-command FCALL ""\nrename-command HSET ""\n')
        extra["include"] = str(tmp_path / "renamed.conf")
    with Stack(LOG_LEVEL="debug") as stack, EmbeddedStore(tmp_path / "store", extra=extra) as store:
        url = store.url
        with contextlib.closing(Redis(port=store.port)) as client:
            if how == "no rights":
                client.execute_command(
                    "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-set", "-fcall", "-xadd"
                )
                url = f"redis://app:pw@127.0.0.1:{store.port}"
            if how == "full":
                client.config_set("maxmemory", 1)
            if how == "broken account":
                for number in range(64):
                    client.set(f"sentinel:{{{number}}}:leases", "nonsense")
        sentinel = stack.sentinel(REDIS_URL=url, ready=False)
        _, token = stack.user(EMAIL, external_id=EMAIL)
        assert post(sentinel, token, chat("[[tokens=3]]")).status == 503
        wait_until(lambda: any(line["event"] == "redis refuses a command" for line in sentinel.log()))
        report = send(sentinel, "GET", "/health").body
        sentinel.signal(signal.SIGTERM)
        wait_until(lambda: says_more(sentinel), "what is said of the last usage")
        # No more tries, says the second signal, if it is this one.
        if sentinel.running:
            sentinel.signal(signal.SIGINT)
        sentinel.stop()
        told = (sentinel.folder / "stdout").read_bytes() + (sentinel.folder / "stderr").read_bytes() + report
        for word in (EMAIL, "private", "account4", "with args"):
            assert word.encode() not in told


def says_more(sentinel: SentinelProcess) -> bool:
    """Whether it has tried to do its last work, and has said so; or has ended."""
    events = [line["event"] for line in sentinel.log()]
    return not sentinel.running or "sentinel stops" in events[:-1]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "ERR unknown command 'FCALL', with args beginning with: 'f' 'sentinel:{1}:a@b.c' ",
            "ERR unknown command 'FCALL'",
        ),
        ("NOPERM User app has no permissions to run the 'xgroup|create' command", "NOPERM 'XGROUP|CREATE'"),
        ("NOPERM No permissions to access a key", "NOPERM"),
        (
            "ERR ACL failure in script: User a@b.c has no permissions to run the 'xadd' command",
            "ERR ACL failure in script 'XADD'",
        ),
        ("WRONGTYPE Operation against a key holding the wrong kind of value script: x", "WRONGTYPE"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("a@b.c", "ERR"),
        ("", "ERR"),
    ],
)
def test_only_the_kind_of_an_error_is_kept(said: str, kept: str) -> None:
    """And a command, which was our own word."""
    assert str(plain(hiredis.ReplyError(said))) == kept


async def test_the_cause_of_a_failure_has_no_more_than_that(store: Store) -> None:
    """A traceback shows the causes of an error, too."""
    await store.command("SET", EMAIL, "x")
    with pytest.raises(RedisUnavailable) as caught:
        await store.script(Script.of(f"error('about {EMAIL}')"), (EMAIL.encode(),))
    assert EMAIL not in "".join(traceback.format_exception(caught.value))
