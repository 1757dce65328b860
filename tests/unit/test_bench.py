"""What of the benchmark decides: which requests the machine has held up, and which budgets are kept (`bench/`)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import messages, report
from bench.latency import Span, calm, latency, quantile, shadows, united
from sentinel.endpoints.embeddings import EMBEDDINGS
from sentinel.endpoints.multipart import MultipartReader, boundary_of
from sentinel.endpoints.objects import FIELDS

MOMENTS = st.integers(0, 200).map(float)
SPANS = st.lists(st.tuples(MOMENTS, st.integers(1, 20)).map(lambda pair: Span(pair[0], pair[0] + pair[1])), max_size=8)


def served(arrivals: list[float], service_seconds: float, stalls: list[Span]) -> list[Span]:
    """The lives of requests to a server that serves one at a time, and nobody during a stall."""
    free, lives = 0.0, []
    for arrival in arrivals:
        begin = max(arrival, free)
        free = begin + service_seconds
        for stall in stalls:
            if begin < stall.end and free > stall.begin:
                free += stall.end - max(stall.begin, begin)
                begin = stall.end
        lives.append(Span(arrival, free))
    return lives


@pytest.mark.parametrize("use", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("stalls", [[Span(1.0, 1.004)], [Span(1.0, 1.004), Span(1.005, 1.009), Span(2.0, 2.02)]])
def test_whom_no_stall_holds_up_lives_as_without_one(use: float, stalls: list[Span]) -> None:
    """What is left when those beside a stall are set apart is what would have been seen without stalls."""
    arrivals = [number / 1000 for number in range(3000)]
    with_stalls = served(arrivals, use / 1000, stalls)
    assert latency(with_stalls).most_ms > 4
    left = calm(with_stalls, shadows(stalls, use))
    assert latency(left).most_ms == pytest.approx(use)
    # Not more are set apart than come in the time of the stalls, of their queues, and one on either side.
    lost = sum(stall.end - stall.begin for stall in stalls) / (1 - use)
    assert len(with_stalls) - len(left) <= lost * 1000 + 2 * len(stalls)


def test_what_we_do_ourselves_is_not_set_apart() -> None:
    """A request that was slow while the machine ran is ours, however slow."""
    slow = [Span(0.0, 0.9), Span(1.2, 1.9)]
    assert calm(slow, shadows([Span(1.0, 1.004)], 0.5)) == slow


@pytest.mark.parametrize(
    ("life", "is_calm"),
    [((0.0, 1.0), True), ((0.0, 1.1), False), ((1.2, 1.3), False), ((1.9, 3.0), False), ((2.0, 3.0), True)],
)
def test_a_life_beside_a_stall_is_set_apart(life: tuple[float, float], *, is_calm: bool) -> None:
    assert bool(calm([Span(*life)], [Span(-2.0, -1.0), Span(1.0, 2.0), Span(5.0, 6.0)])) is is_calm


def test_without_stalls_nothing_is_set_apart() -> None:
    assert calm([Span(0.0, 9.0)], shadows([], 0.5)) == [Span(0.0, 9.0)]


def test_a_stall_of_both_cores_counts_once() -> None:
    assert shadows([Span(1.0, 2.0), Span(1.0, 2.0)], 0.5) == [Span(1.0, 3.0)]


def test_a_stall_that_finds_a_queue_adds_to_it() -> None:
    assert shadows([Span(1.0, 2.0), Span(2.5, 3.5)], 0.5) == [Span(1.0, 5.0)]


def test_the_queue_of_a_full_core_is_bounded() -> None:
    """Nothing would be left to answer for, and a division by zero besides."""
    assert [shadow.end for shadow in shadows([Span(0.0, 1.0)], 1.0)] == pytest.approx([10.0])


@given(SPANS, SPANS, st.sampled_from([0.0, 0.25, 0.75]))
def test_set_apart_is_whoever_meets_a_shadow(lives: list[Span], stalls: list[Span], use: float) -> None:
    dark = shadows(stalls, use)
    assert all(one.end < other.begin for one, other in pairwise(dark))
    assert all(any(each.begin <= stall.begin and stall.end <= each.end for each in dark) for stall in stalls)
    meets = [life for life in lives if any(life.begin < each.end and each.begin < life.end for each in dark)]
    assert calm(lives, dark) == [life for life in lives if life not in meets]


@given(SPANS)
def test_united_spans_are_the_same_time(spans: list[Span]) -> None:
    def moments(of: list[Span]) -> set[int]:
        return {moment for begin, end in of for moment in range(int(begin), int(end))}

    assert moments(united(spans)) == moments(spans)


def test_quantiles_are_those_of_the_sorted_values() -> None:
    figures = latency([Span(0.0, number / 1000) for number in range(1000, 0, -1)])
    assert figures.requests == 1000
    assert [figures.p50_ms, figures.p90_ms, figures.p99_ms] == pytest.approx([501, 901, 991])
    assert [figures.p999_ms, figures.most_ms] == pytest.approx([1000, 1000])
    assert quantile([], 0.5) == 0


def rates(*, p50_ms: float = 0.4, p99_ms: float = 1.4, set_apart: float = 0.01, asked: int = 1_000) -> dict[str, Any]:
    """The data of one rate, where what is added is Sentinel's latency."""
    names = [*report.QUANTILES, "most_ms"]
    rest = {"stalled": 0.004, "set_apart": set_apart, "per_second": 1000.0, "late_ms": 0.1, "cpu_us": 50.0}
    nothing = {"requests": 20_000, **dict.fromkeys(names, 0.0)}
    stalled = {"requests": 20_000, **dict.fromkeys(names, 5.0)}
    ours = {**nothing, "p50_ms": p50_ms, "p99_ms": p99_ms}
    return {
        "asked": asked,
        "direct": {"all": nothing, "calm": nothing, **rest},
        "nginx": {"all": nothing, "calm": nothing, **rest},
        "sentinel": {"all": stalled, "calm": ours, **rest, "cpu_us": 200.0},
    }


@pytest.mark.parametrize(
    ("data", "holds"),
    [
        (rates(), True),
        (rates(p50_ms=0.6), False),
        (rates(p99_ms=1.6), False),
        (rates(asked=2_000), None),
        (rates(set_apart=0.2), None),
    ],
    ids=["kept", "p50 missed", "p99 missed", "another rate", "too many set apart"],
)
def test_we_answer_for_the_latency_beside_no_stall(data: dict[str, Any], *, holds: bool | None) -> None:
    """At the rate that has a budget, and where enough is left to judge by."""
    row, with_stalls, *_ = report.rows({"latencies": [data]})
    assert row.holds is holds
    assert with_stalls.sentinel.startswith("5.00 /")


def stream_data(ratio: float = 1.2, **over_chat: float) -> dict[str, Any]:
    """The data of streams whose chunks cost so much, over those of nginx and over those of chat."""
    subject = {"per_second": 5_000.0, "cpu_us": 10.0, "p99_ms": 1.0}
    memory = {"nginx": 1, "sentinel": 2}
    chunks = {"nginx": subject, "sentinel": subject, "ratio": ratio, "ratios": [1.2, 1.25, ratio + 0.3]}
    formats = {name: {**chunks, "kib_per_stream": memory} for name in ("chat", *over_chat)}
    rest = {"direct": {"p99_ms": 0.5}, "formats": formats, "over_chat": over_chat}
    return {"streams": 256, "per_stream": 20, **rest}


@pytest.mark.parametrize(("ratio", "holds"), [(1.2, True), (1.5, True), (1.51, False)])
def test_each_format_has_the_budget_of_a_chunk(ratio: float, *, holds: bool) -> None:
    """And the row tells how often what we aim at was reached."""
    data = stream_data(ratio, responses=1.0, messages=1.0)
    rows = [row for row in report.rows({"streams": [data]}) if row.what.startswith("CPU of a chunk of ")]
    assert [row.holds for row in rows] == [holds] * 3
    assert {row.budget for row in rows} == {"<= 1.5, 1.25 in 2 of 3"}


def test_the_verdict_names_what_is_missed() -> None:
    table = [report.Row(name, "", "", holds=holds) for name, holds in (("a", True), ("b", False), ("c", None))]
    assert report.verdict(table) == "1 of 2 budgets held\nMISSED: b"


def many(
    *, opened: int = 10_000, after_mb: float = 401.0, most_ms: float = 49.0, set_apart: float = 0.01
) -> dict[str, Any]:
    """The data of ten thousand streams."""
    delays = {"requests": 300_000, "p50_ms": 0.3, "p99_ms": 2.0, "most_ms": most_ms}
    told = {"all": {**delays, "most_ms": 60.0}, "calm": delays, "set_apart": set_apart, "stalled": 0.004}
    return {
        "asked": 10_000,
        "open": opened,
        "files": 20_000,
        "refused": 2,
        "seconds": 60.0,
        "per_second": 5_000.0,
        "core_busy": 0.2,
        "memory_mb": [400.0, after_mb],
        "kib_per_stream": 30.0,
        "direct": told,
        "sentinel": told,
    }


@pytest.mark.parametrize(
    ("data", "missed"),
    [
        (many(), []),
        (many(opened=9_000), []),
        (many(after_mb=420.0), ["memory"]),
        (many(most_ms=51.0), ["delay"]),
        (many(most_ms=51.0, set_apart=0.3), ["delay"]),
    ],
    ids=["kept", "too few files", "memory grows", "a chunk too late", "and it was not the machine"],
)
def test_many_streams_keep_their_memory_and_no_chunk_is_late(data: dict[str, Any], missed: list[str]) -> None:
    """Where the machine allows fewer open files there are fewer streams, and the row says why."""
    rows = report.rows({"connections": [data]})
    assert [row.what.split()[0] for row in rows if row.holds is False] == missed
    assert ("20,000 open files" in rows[0].budget) is (rows[0].holds is None) is (data["open"] < 10_000)
    assert rows[0].sentinel == f"{data['open']:,} / 2 / 20%"


def test_the_latest_chunk_is_not_judged_where_too_many_are_set_apart() -> None:
    row = next(row for row in report.rows({"connections": [many(set_apart=0.3)]}) if row.what.startswith("delay"))
    assert row.holds is None
    assert row.budget.endswith("not judged: too many set apart")


@pytest.mark.parametrize(("over_chat", "holds"), [(1.2, True), (1.21, False)])
def test_other_formats_are_held_to_what_a_chunk_of_chat_costs(over_chat: float, *, holds: bool) -> None:
    rows = report.rows({"streams": [stream_data(responses=0.9, messages=over_chat)]})
    row = next(row for row in rows if "over chat's, responses / messages" in row.what)
    assert (row.ratio, row.holds) == (f"0.90 / {over_chat:.2f}", holds)


def test_chat_alone_is_compared_with_nothing() -> None:
    assert not any("over chat's" in row.what for row in report.rows({"streams": [stream_data()]}))


@pytest.mark.parametrize(("growth_mb", "holds"), [(16.7, True), (16.8, False)])
def test_no_large_file_may_be_held_whole(growth_mb: float, *, holds: bool) -> None:
    data = {
        "bytes": 16 * 1024 * 1024,
        "at_once": 4,
        "growth_mb": {"nginx": 6.0, "sentinel": growth_mb},
        "nginx": {"cpu_us": 8_388.608},
        "sentinel": {"cpu_us": 16_777.216},
    }
    cost, memory = report.rows({"uploads": [data]})
    assert (cost.nginx, cost.sentinel, cost.ratio) == ("500 us", "1,000 us", "2.00")
    assert memory.holds is holds


def test_memory_tells_nothing_of_small_files() -> None:
    cost, growth = {"cpu_us": 100.0}, {"nginx": 6.0, "sentinel": 1.0}
    data = {"bytes": 65_536, "at_once": 16, "growth_mb": growth, "nginx": cost, "sentinel": cost}
    assert [row.what for row in report.rows({"uploads": [data]})] == ["CPU of an uploaded MB, files of 64 KiB"]


def test_a_request_costs_what_it_costs_at_each_rate() -> None:
    """At partial load a request costs more than at full load, so the table tells it there, too."""
    row = next(row for row in report.rows({"latencies": [rates(asked=500)]}) if row.what.startswith("CPU of a request"))
    assert row.cells() == ("CPU of a request at 500 requests/s", "50.0 us", "200.0 us", "0.250", "")


def test_what_is_embedded_is_what_the_answer_tells_of() -> None:
    """Sentinel reads both, and is not measured at refusing them."""
    assert EMBEDDINGS.read(messages.embeddings().body).model == messages.EMBEDDING_MODEL
    reading = EMBEDDINGS.read_answer(messages.embedded().encode())
    assert reading is not None
    assert reading.usage.prompt_tokens == 200


def test_an_uploaded_file_names_no_object() -> None:
    """It goes through as it is: nothing of it is held back, and the form ends where it should."""
    post = messages.upload(65_536)
    boundary = boundary_of(post.type.encode())
    assert boundary is not None
    reader = MultipartReader(boundary, FIELDS)
    passed = reader.feed(post.body)
    reader.end()
    assert passed + reader.rest() == post.body
    assert not reader.named
