"""Traces of whole processes: how they start and end, several workers, and a collector that is away.

About: `observability/tracing.py`, `app.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.dev.ports import free_port
from tests.support.spans import SERVER, Collector
from tests.support.stack import START_SECONDS, Stack
from tests.support.surface import chat, post
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

COMMAND = [sys.executable, "-m", "sentinel"]
GOOD = {"ZION_API_URL": "http://127.0.0.1:9", "ZION_API_KEY": "zion-key", "OPENAI_API_KEY": "sk-key"}
SECRET = "0123456789-secret"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    return stack.user()[1]


def start(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command that is expected to end by itself."""
    return subprocess.run(
        [*COMMAND, *(arguments or ("serve",))],
        env={"PATH": os.environ["PATH"], **GOOD, **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def mistakes(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a wrong start."""
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    return [line.removeprefix("  - ") for line in result.stderr.splitlines() if line.startswith("  - ")]


class TestAWrongStart:
    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("OTEL_TRACES_SAMPLER", "sometimes", "Couldn't recognize sampler sometimes."),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "Invalid timeout value 'soon'"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "Unsupported compression type: brotli"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "Unable to parse value for OTEL_BSP_MAX_QUEUE_SIZE as integer"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "9", "max_export_batch_size must be less than or equal to max_queue_size."),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file", "/no/such/file is no file"),
            ("OTEL_EXPORTER_OTLP_HEADERS", f'api-key="{SECRET}"', "must be NAME=VALUE, parted by commas"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team", "Invalid key value resource attribute pair team"),
        ],
    )
    def test_is_told_in_the_words_of_the_sdk(self, tmp_path: Path, name: str, value: str, told: str) -> None:
        """What it does not understand is no default that nobody asked for; nothing that may be a key is repeated."""
        result = start(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **{name: value})
        (mistake,) = mistakes(result)
        assert mistake.startswith((f"{name}: ", "OTEL_*: "))
        assert told in mistake
        assert SECRET not in result.stderr + result.stdout

    def test_has_all_mistakes_that_need_no_sdk_at_once(self, tmp_path: Path) -> None:
        """Beside those of other settings."""
        wrong = {"OTEL_TRACES_EXPORTER": "jaeger", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}
        told = mistakes(start(tmp_path, **wrong, OPENAI_API_KEY=""))
        assert [line.split()[0].rstrip(":") for line in told] == [
            "OPENAI_API_KEY", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
        ]  # fmt: skip

    def test_without_the_extra(self, tmp_path: Path) -> None:
        """What is missing, who asks for it, and what to install; without being asked for it is not missed."""
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.exporter'] = None\n")
        wanted = {"PYTHONPATH": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        (mistake,) = mistakes(start(tmp_path, **wanted))
        assert mistakes(start(tmp_path, "doctor", **wanted)) == [mistake]
        assert mistake.startswith("OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and opentelemetry.exporter")
        assert mistake.endswith("is not installed: install Sentinel with its extra `otel` (requirements/run.txt)")
        result = start(tmp_path, "doctor", **wanted, OTEL_TRACES_EXPORTER="none")
        assert "opentelemetry" not in result.stderr + result.stdout

    def test_a_warning_is_told(self, tmp_path: Path) -> None:
        """By doctor, too."""
        result = start(tmp_path, "doctor", OTEL_TRACES_SAMPLER="always_on")
        assert "OTEL_TRACES_SAMPLER has no effect" in result.stdout


def test_nothing_for_traces_is_loaded_without_being_asked_for(tmp_path: Path) -> None:
    """Tracing that is off costs neither time nor memory; what the SDK has for metrics redis-py loads by itself."""
    code = "import sentinel.app, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = set(found.stdout.split())
    assert "sentinel.app" in loaded
    assert not loaded & {"sentinel.observability.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter"}


def test_variables_may_stand_in_the_env_file(stack: Stack, collector: Collector, token: str) -> None:
    """The SDK itself reads the environment alone; an empty variable there is none."""
    sentinel = stack.sentinel({"OTEL_BSP_MAX_QUEUE_SIZE": "", "OTEL_SERVICE_NAME": ""}, start=False)
    settings = collector.settings(OTEL_EXPORTER_OTLP_COMPRESSION="gzip")
    (sentinel.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    sentinel.start()
    server, _ = collector.of(post(sentinel, token, chat()).headers["x-request-id"], 2)
    assert server.resource["service.name"] == "sentinel"
    assert collector.calls[0].headers["content-encoding"] == "gzip"


class TestTheEnd:
    def test_has_the_last_spans_exported(self, stack: Stack, collector: Collector, token: str) -> None:
        """Also those that their time has not come for."""
        sentinel = stack.sentinel(collector.settings(OTEL_BSP_SCHEDULE_DELAY="600000"))
        request_id = post(sentinel, token, chat()).headers["x-request-id"]
        assert collector.spans == []
        assert sentinel.stop() == 0
        assert len(collector.of(request_id, 2)) == 2

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_waits_a_bounded_time_for_a_silent_collector(
        self, stack: Stack, collector: Collector, token: str, workers: str
    ) -> None:
        """It takes the spans and says nothing; usage is delivered all the same."""
        settings = collector.settings(OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_EXPORTER_OTLP_TIMEOUT="600")
        sentinel = stack.sentinel(settings, SENTINEL_WORKERS=workers)
        collector.silent.set()
        assert post(sentinel, token, chat()).status == 200
        began = time.monotonic()
        assert sentinel.stop() == 0
        assert time.monotonic() - began < 3 + AT_ONCE_SECONDS
        (lost,) = [line for line in sentinel.log() if line["event"] == "the last spans are lost"]
        assert lost["spans"] == 2


def test_several_workers_export_each_for_itself(stack: Stack, collector: Collector, token: str) -> None:
    """Each is an instance of the service, and no span is lost or told twice."""
    sentinel = stack.sentinel(collector.settings(), SENTINEL_WORKERS="2")
    ids = set()

    def both() -> bool:
        ids.add(post(sentinel, token, chat()).headers["x-request-id"])
        return len({span.resource["service.instance.id"] for span in collector.spans}) == 2

    wait_until(both, "spans of both workers")
    assert sentinel.stop() == 0
    told = [span["sentinel.request_id"] for span in collector.spans if span.kind == SERVER]
    assert sorted(told) == sorted(ids)
    assert len(collector.spans) == 2 * len(ids)


class TestACollectorThatIsAway:
    def test_holds_up_nobody(self, stack: Stack, token: str) -> None:
        """Requests are served; the log says it once, however many batches fail; the metric counts each span."""
        url = f"http://me:{SECRET}@127.0.0.1:{free_port()}/v1/traces?key={SECRET}"
        settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "10"}
        sentinel = stack.sentinel({**settings, "OTEL_EXPORTER_OTLP_TIMEOUT": "3"})
        failed = 'sentinel_spans_total{result="failed"}'
        for number in range(1, 3):
            assert post(sentinel, token, chat()).status == 200
            wait_until(lambda count=2 * number: sentinel.metric(failed) == count, "failed spans")  # type: ignore[misc]
        (line,) = [line for line in sentinel.log() if line["event"] == "the collector of traces fails"]
        assert "/v1/traces?***" in line["reason"]
        assert SECRET not in json.dumps(sentinel.log())
        assert not [line for line in sentinel.log() if line.get("logger")]
        assert sentinel.stop() == 0

    def test_spans_beyond_the_queue_are_dropped(self, stack: Stack, collector: Collector, token: str) -> None:
        """And counted, and those that wait come once it is there again."""
        sizes = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5"}
        sentinel = stack.sentinel(collector.settings(**sizes))
        collector.silent.set()
        for _ in range(20):
            assert post(sentinel, token, chat()).status == 200
        dropped = wait_until(lambda: sentinel.metric('sentinel_spans_total{result="dropped"}'), "dropped spans")
        collector.silent.clear()
        exported = 'sentinel_spans_total{result="exported"}'
        wait_until(lambda: sentinel.metric(exported) + dropped == 40, "what waited")
        assert len(collector.spans) == sentinel.metric(exported) >= 10
