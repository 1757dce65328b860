"""`sentinel doctor` and `sentinel replay`: what an operator asks when something is not well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from redis.exceptions import RedisError

from sentinel.cache import keys
from sentinel.cache.connection import Moved
from sentinel.cache.health import StoreHealth
from sentinel.cache.inspection import TOPICS, Topic, inspect
from sentinel.cache.installation import Installation
from sentinel.cache.redis import Store, open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.clock import monotonic
from sentinel.config import Settings, key_of, load_providers, settings_warnings
from sentinel.diagnosis import Subject, Trouble, trouble, trouble_of, trouble_of_answer
from sentinel.egress import Egress
from sentinel.error import AppError, ForeignStore, RedisRefused, RedisUnavailable
from sentinel.governance.port import Fault, Governance
from sentinel.invocation import invocation
from sentinel.limits.policy import Policy
from sentinel.provider_config import ProviderSpec
from sentinel.providers import NO_KEY, egress_of, provider_of
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.token_command import TokenCommand
from sentinel.proxy.transport.answer import ConnectFailed, HttpError, IdleTimeout
from sentinel.proxy.transport.dialer import ProxyRefused
from sentinel.tasks import Tasks, pause
from sentinel.timestamp import rfc3339
from sentinel.usage.dead_letters import DeadLetter, DeadLetters
from sentinel.usage.outbox import Outbox
from sentinel.usage.spool_files import set_aside, writable
from sentinel.zion.client import SUBJECT, ZionClient

_REPLAY_SECONDS = 30.0
_LETTERS_AT_ONCE = 1000
_START_REDIS = "start it, or correct REDIS_URL"
_ASK_SECONDS = 10.0
_REDIS = Subject("REDIS_URL", authorities="?ssl_ca_certs=FILE in REDIS_URL", plain="redis", tls="rediss")
_PROVIDER = Subject("OPENAI_API_URL", "OPENAI_API_KEY", authorities="UPSTREAM_CA_FILE")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. remedy: what to do about it, None if all is well."""

    subject: str
    said: str
    remedy: str | None = None

    def line(self) -> str:
        """As it is printed."""
        if self.remedy is None:
            return f"ok    {self.subject:<18} {self.said}"
        return f"FAIL  {self.subject:<18} {self.said} -> {self.remedy}"


async def check(settings: Settings) -> int:
    """Print one line for each check; 0 if all is well, else 1."""
    findings = [*_settings(settings), _spool(settings)]
    for found in await asyncio.gather(_redis(settings), _governance(settings), _providers(settings)):
        findings += found
    for finding in findings:
        print(finding.line())
    return int(any(finding.remedy for finding in findings))


def _settings(settings: Settings) -> list[Finding]:
    """What config.py did not refuse: all well, or given in vain."""
    warnings = [Finding("settings", warning, "correct or remove it") for warning in settings_warnings(settings)]
    return warnings or [Finding("settings", "complete and valid")]


def _spool(settings: Settings) -> Finding:
    if reason := writable(settings.spool_dir):
        return Finding("spool", reason, "set SPOOL_DIR to a folder that Sentinel may write to")
    keys.use_prefix(settings.redis_prefix)
    if reason := Installation(settings.zion_api_url).spool_refusal(Path(settings.spool_dir)):
        return Finding("spool", "is not ours", reason)
    if files := set_aside(settings.spool_dir):
        said = f"{len(files)} files hold settlements that were set aside, or cannot be read: {', '.join(files[:3])}"
        return Finding("spool", said, "look into them; what is renamed to *.jsonl is replayed once more")
    return Finding("spool", f"{settings.spool_dir} can be written to")


async def _redis(settings: Settings) -> list[Finding]:
    store = _open(settings)
    try:
        await store.start()
        await store.command("GET", keys.probe(0))
        return await _look_into(store)
    except Moved:
        return [_finding("redis", Trouble("is a node of a cluster", "use redis+cluster:// in REDIS_URL"))]
    except (RedisUnavailable, RedisError, OSError) as error:
        return [_redis_is_away(store, error)]
    finally:
        await store.close()


def _open(settings: Settings) -> Store:
    keys.use_prefix(settings.redis_prefix)
    return open_store(settings.redis_url, installation=Installation(settings.zion_api_url))


def _redis_is_away(store: Store, error: Exception) -> Finding:
    if isinstance(store.failure, ForeignStore):
        return Finding("redis", "is not ours", store.failure.message)
    trouble = trouble_of(store.failure or error, _REDIS)
    return _finding("redis", trouble or Trouble("does not answer", _START_REDIS))


def _finding(subject: str, trouble: Trouble) -> Finding:
    return Finding(subject, trouble.said, trouble.remedy)


_WELL: dict[Topic, str] = {
    "eviction": "noeviction",
    "persistence": "append-only file",
    "commands": "all that we use",
}
"""What is said of a Redis that is set up as it should be; of its version, which that is."""


async def _look_into(store: Store) -> list[Finding]:
    found = await inspect(store)
    well = {"version": found.versions, **_WELL}
    findings = []
    for topic in TOPICS:
        flaws = [Finding(f"redis {topic}", flaw.said, flaw.remedy) for flaw in found.flaws if flaw.what == topic]
        findings += flaws or [Finding(f"redis {topic}", well[topic])]
    return [*findings, await _functions(store), *await _waiting(store)]


async def _functions(store: Store) -> Finding:
    state = await StoreHealth(_ledger(store)).state()
    if state.whole:
        return Finding("redis functions", "run")
    return Finding("redis functions", f"fail: {state.reason}", "see above, and Redis' own log")


async def _waiting(store: Store) -> list[Finding]:
    each = range(keys.PARTITIONS)
    lengths = [await _length(store, keys.outbox(p)) for p in each]
    letters = [await _length(store, keys.dead_letters(p)) for p in each]
    aside = [await _length(store, keys.unreadable(p)) for p in each]
    broken = sum(length is None for length in (*lengths, *letters, *aside))
    dead = sum(filter(None, letters))
    said = f"{sum(filter(None, lengths))} records wait for Zion, {dead} dead letters"
    ours = invocation()
    see = f"see `{ours} doctor --dead-letters`, then `{ours} replay` (or dead-letters delete)"
    told = Finding("outbox", said, see if dead else None)
    records, batches = sum(filter(None, aside)), await store.command("HLEN", keys.unreadable_batches())
    said = f"{records} records and {batches} batches that cannot be read, {broken} keys of a wrong type"
    remedy = "look at the keys *sentinel:*:unreadable and at the log" if records or batches or broken else None
    return [told, Finding("set aside", said, remedy)]


async def _length(store: Store, stream: bytes) -> int | None:
    try:
        return int(await store.command("XLEN", stream))
    except RedisRefused:
        return None


async def _governance(settings: Settings) -> list[Finding]:
    governance: Governance = ZionClient(
        settings.zion_api_url, settings.zion_api_key.get_secret_value(), settings.zion_egress
    )
    address = _way(settings.zion_api_url, settings.zion_egress)
    return [await _asked(governance.examine, governance.close, "zion", address, SUBJECT)]


async def _providers(settings: Settings) -> list[Finding]:
    config = load_providers(settings)
    if config is None:
        assert settings.openai_api_key is not None
        provider = OpenAIProvider(
            settings.openai_api_url,
            settings.openai_api_key.get_secret_value(),
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            idle_timeout_seconds=_ASK_SECONDS,
            keepalive_seconds=0,
            egress=settings.provider_egress,
        )
        return [
            await _provider(provider, "provider", _way(settings.openai_api_url, settings.provider_egress), _PROVIDER)
        ]
    return await asyncio.gather(*(_of_file(spec, settings) for spec in config.providers))


async def _of_file(spec: ProviderSpec, settings: Settings) -> Finding:
    """A provider of the file, with its first key."""
    key = key_of(spec.keys[0]) if spec.keys else NO_KEY
    if spec.token_command:
        command = TokenCommand(spec.name, spec.token_command)
        await command.refresh()
        key = command.token or key
    asked = replace(spec, idle_timeout_seconds=_ASK_SECONDS, keepalive_seconds=0)
    place = f"providers.{spec.name}"
    subject = Subject(f"{place}.url", f"{place}.api_key", authorities=f"{place}.ca_file")
    way = _way(spec.url, egress_of(spec, settings))
    return await _provider(provider_of(asked, settings, key), f"provider {spec.name}", way, subject)


async def _provider(provider: OpenAIProvider, name: str, address: str, subject: Subject) -> Finding:
    async def ask() -> Trouble | None:
        answer = await provider.get("/models", "req_doctor")
        return trouble_of_answer(answer.status, answer.body, subject)

    return await _asked(ask, provider.close, name, address, subject)


def _way(url: str, egress: Egress) -> str:
    """An address with the proxy before it: what cannot be reached may be that one."""
    return f"{url} through the proxy {egress.proxy.url}" if egress.proxy else url


async def _asked(
    ask: Callable[[], Awaitable[Fault | None]],
    close: Callable[[], Awaitable[None]],
    name: str,
    address: str,
    subject: Subject,
) -> Finding:
    found: Fault | None
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            found = await ask()
    except (AppError, TimeoutError) as error:
        found = _of_http(error, subject) or trouble_of(error, subject)
        found = found or Trouble(f"fails ({error})", f"check {subject.setting} and the network")
    finally:
        await close()
    if found is None:
        return Finding(name, f"answers and takes our key ({address})")
    return Finding(name, f"{address}: {found.said}", found.remedy)


def _of_http(error: BaseException, subject: Subject) -> Trouble | None:
    """What our own HTTP client found wrong once there was a connection."""
    match error.__cause__:
        case IdleTimeout():
            return trouble("timeout", subject)
        case ConnectFailed() as failed:
            return trouble("proxy", subject) if isinstance(failed.__cause__, ProxyRefused) else None
        case HttpError() as broken:
            return trouble("closed" if "closed" in str(broken) else "protocol", subject)
    return None


def _without_redis(store: Store, error: Exception) -> int:
    print(_redis_is_away(store, error).line())
    return 1


async def dead_letters(settings: Settings) -> int:
    """Print the usage that Zion refused for good; 1 if there is any."""
    store, count = _open(settings), 0
    try:
        await store.start()
        async for letter in _letters(store).all():
            count += 1
            print(_described(letter))
    except RedisUnavailable as error:
        return _without_redis(store, error)
    finally:
        await store.close()
    print(f"{count} dead letters")
    return int(count > 0)


def _described(letter: DeadLetter) -> str:
    record = letter.record
    if record is None:
        return f"{letter.partition}/{letter.entry}  cannot be read"
    requests, inputs, outputs = record.spent
    return (
        f"{letter.partition}/{letter.entry}  user={record.user}  model={record.model}  requests={requests}  "
        f"input={inputs}  output={outputs}  since={rfc3339(record.at_ms)}  reason={letter.reason}"
    )


async def delete_letters(settings: Settings, names: list[str] | None) -> int:
    """Delete dead letters, named as `dead_letters` prints them, None = all; 1 if one of these is not there.

    What they sum up will never be billed, and counts against their users' limits no more.
    """
    store, deleted, wanted = open_store(settings.redis_url), 0, set(names or ())
    try:
        await store.start()
        dead = _letters(store)
        async for letter in dead.all():
            name = f"{letter.partition}/{letter.entry}"
            if names is None or name in wanted:
                deleted += await dead.discard(letter)
                wanted.discard(name)
        left = await dead.count()
    except RedisUnavailable as error:
        return _without_redis(store, error)
    finally:
        await store.close()
    for name in sorted(wanted):
        print(f"there is no dead letter {name}")
    print(f"{deleted} dead letters deleted, {left} left")
    return int(bool(wanted))


async def replay(settings: Settings) -> int:
    """Put every dead letter back into the outbox, and see it delivered; 1 if anything is left.

    A letter moves in one step, and was refused for sure: this may be repeated and interrupted at will. Some go at a
    time; where these are not delivered the others stay.
    """
    store = _open(settings)
    zion = ZionClient(settings.zion_api_url, settings.zion_api_key.get_secret_value(), settings.zion_egress)
    moved = waiting = 0
    try:
        await store.start()
        dead = _letters(store)
        async with _delivering(settings, store, zion):
            async for letters in _pages(dead.all()):
                entries = [(letter.partition, entry) for letter in letters if (entry := await dead.requeue(letter))]
                moved += len(entries)
                if waiting := await _delivered(dead, entries):
                    break
        left = waiting + await dead.count()
    except RedisUnavailable as error:
        return _without_redis(store, error)
    finally:
        await zion.close()
        await store.close()
    print(f"{moved} dead letters sent again, {left} left")
    return int(left > 0)


async def _pages(letters: AsyncIterator[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    """Those that can be read, some at a time."""
    page: list[DeadLetter] = []
    async for letter in letters:
        if letter.record is not None:
            page.append(letter)
        if len(page) == _LETTERS_AT_ONCE:
            yield page
            page = []
    if page:
        yield page


@asynccontextmanager
async def _delivering(settings: Settings, store: Store, governance: Governance) -> AsyncIterator[None]:
    """Deliver, in case nobody else does."""
    outbox, tasks = _outbox(settings, store, governance), Tasks()
    tasks.keep(outbox.beat, "heartbeat")
    tasks.keep(outbox.run, "outbox")
    try:
        yield
    finally:
        await outbox.stop(1)
        await tasks.cancel()


async def _delivered(dead: DeadLetters, entries: list[tuple[int, str]]) -> int:
    """Wait until these records have left the outbox; returns how many have not."""
    deadline = monotonic() + _REPLAY_SECONDS
    while entries and monotonic() < deadline:
        entries = [(p, entry) for p, entry in entries if await dead.is_waiting(p, entry)]
        await pause(0.1)
    return len(entries)


def _outbox(settings: Settings, store: Store, governance: Governance) -> Outbox:
    return Outbox(_ledger(store), governance, flush_seconds=0.2, calls_per_second=settings.zion_calls_per_second)


def _ledger(store: Store) -> RedisLedger:
    return RedisLedger(store, Policy((), None, 1000, 1000, 1000))


def _letters(store: Store) -> DeadLetters:
    return DeadLetters(_ledger(store))
