"""Metrics, computed from rows: what is counted, what is added up, what survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.samples import graph_of, spec
from pfw import WorkflowMetrics
from pfw.facts import (
    ASSIGNED,
    CANCELLED,
    FACT_CANCELLED,
    FACT_CAPACITY,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_PROGRESSED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FAILED,
    RUN_FAILED,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    Fact,
    pack_capacity,
)
from pfw.failure import FAIL_ERROR, Failure, describe_timeout
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO, Graph
from pfw.metrics import AttemptMetrics, WaveMetrics, measure

WORKERS = {1: "left", 2: "right"}
WHY = Failure(FAIL_ERROR, "ValueError", "why").pack()
EPOCH_S = 1_000.0
MIB = 1 << 20


def measured(graph: Graph, states: list[int], *rows: Fact, now: float = 99.0) -> WorkflowMetrics:
    return measure(rows, graph, states, WORKERS, EPOCH_S, now)


def began(at: float = 10.0, *slots: int) -> Fact:
    return Fact(FACT_RUN_STARTED, 0, at, 0, 0, at, at, 0.0, pack_capacity(slots or (2, 4, 8)))


def ended(at: float) -> Fact:
    return Fact(FACT_FINISHED, 0, at, RUN_FAILED, 0, at, at, 0.0, b"")


def test_a_step_that_succeeded_at_its_second_attempt() -> None:
    found = measured(
        graph_of([()]),
        [SUCCEEDED],
        began(),
        Fact(FACT_RETRYING, 0, 13.0, 1, 1, 10.0, 11.0, 2.0, WHY, 500_000, 3 * MIB),
        Fact(FACT_STARTED, 0, 15.5, 2, 2, 14.0, 15.0, 0.0, b""),
        Fact(FACT_SUCCEEDED, 0, 16.0, 2, 2, 14.0, 15.0, 1.0, b"", 250_000, 2 * MIB),
        ended(16.0),
    )
    step = found.steps["s0"]
    assert step.history == [
        AttemptMetrics("FAILED", "left", 1010.0, 1011.0, 1013.0, 2.0, 1.0, 0.5, 3 * MIB, "ValueError: why"),
        AttemptMetrics("SUCCEEDED", "right", 1014.0, 1015.0, 1016.0, 1.0, 1.0, 0.25, 2 * MIB, None),
    ]
    assert (step.status, step.attempts, step.worker, step.error) == ("SUCCEEDED", 2, "right", None)
    assert (step.queued_at, step.started_at, step.ended_at) == (1010.0, 1011.0, 1016.0)
    assert (step.run_time, step.wait_time, step.cpu_time, step.memory_peak) == (3.0, 2.0, 0.75, 3 * MIB)
    assert (found.total_duration, found.parallelism_factor, found.peak_memory) == (6.0, 0.5, 3 * MIB)
    assert (found.total_steps, found.successful_steps, found.failed_steps, found.retries) == (1, 1, 0, 1)


def test_every_ending_of_a_step_is_measured() -> None:
    found = measured(
        graph_of([(), (0,), (), (), (), ()]),
        [FAILED, SKIPPED, CANCELLED, CANCELLED, CANCELLED, TIMED_OUT],
        began(),
        Fact(FACT_FAILED, 0, 12.0, 1, 1, 10.0, 10.5, 1.5, WHY),
        Fact(FACT_SKIPPED, 1, 12.0, 0, 0, 12.0, 12.0, 0.0, b""),
        Fact(FACT_CANCELLED, 2, 12.0, 0, 0, 10.0, 12.0, 0.0, b"cancelled"),
        Fact(FACT_RETRYING, 3, 11.0, 1, 1, 10.0, 10.5, 0.5, WHY),
        Fact(FACT_CANCELLED, 3, 12.0, 1, 0, 10.0, 12.0, 0.0, b"cancelled"),
        Fact(FACT_CANCELLED, 4, 13.0, 1, 2, 10.0, 11.0, 2.0, b"cancelled", 100_000, MIB),
        Fact(FACT_TIMED_OUT, 5, 13.0, 1, 1, 10.0, 12.0, 1.0, describe_timeout(1.0).pack()),
        ended(13.0),
    )
    failed, skipped, waiting, in_backoff, running, slow = found.steps.values()
    assert (failed.error, failed.attempts, failed.history[0].error) == ("ValueError: why", 1, "ValueError: why")
    assert (skipped.status, skipped.attempts, skipped.started_at, skipped.ended_at) == ("SKIPPED", 0, None, 1012.0)
    assert (waiting.queued_at, waiting.started_at, waiting.ended_at, waiting.history) == (1010.0, None, 1012.0, [])
    assert (in_backoff.attempts, len(in_backoff.history), in_backoff.ended_at) == (1, 1, 1012.0)
    assert (running.status, running.run_time, running.worker) == ("CANCELLED", 2.0, "right")
    assert [attempt.status for attempt in running.history] == ["CANCELLED"]
    assert (slow.status, [attempt.status for attempt in slow.history]) == ("TIMED_OUT", ["TIMED_OUT"])
    assert slow.error == "StepTimeoutError: it ran for longer than its timeout of 1 s"
    assert (found.failed_steps, found.retries, found.run_time["cpu"]) == (2, 1, 5.0)


def test_a_run_that_goes_on_is_measured_until_now() -> None:
    found = measured(
        graph_of([()]),
        [ASSIGNED],
        began(),
        Fact(FACT_STARTED, 0, 12.0, 1, 1, 10.0, 11.0, 0.0, b""),
        Fact(FACT_PROGRESSED, 0, 13.0, 1, 1, 10.0, 11.0, 0.0, b"1.0 2.0 "),
        now=14.0,
    )
    step = found.steps["s0"]
    assert (found.total_duration, step.status, step.attempts, step.worker) == (4.0, "ASSIGNED", 1, "left")
    assert (step.started_at, step.ended_at, step.history) == (1011.0, None, [])


def test_utilisation_is_busy_slot_seconds_of_those_there_were() -> None:
    specs = [spec(LANE_CPU), spec(LANE_IO), spec(LANE_ASYNC)]
    found = measured(
        graph_of([(), (), ()], specs=specs),
        [SUCCEEDED] * 3,
        began(10.0, 0, 0, 0),
        Fact(FACT_CAPACITY, 0, 11.0, 0, 0, 11.0, 11.0, 0.0, pack_capacity((1, 4, 10))),
        Fact(FACT_SUCCEEDED, 0, 13.0, 1, 1, 10.0, 11.0, 2.0, b""),
        Fact(FACT_CAPACITY, 0, 13.0, 0, 0, 13.0, 13.0, 0.0, pack_capacity((2, 4, 10))),
        Fact(FACT_SUCCEEDED, 1, 15.0, 1, 1, 10.0, 11.0, 4.0, b""),
        Fact(FACT_SUCCEEDED, 2, 15.0, 1, 1, 10.0, 11.0, 2.0, b""),
        ended(15.0),
    )
    assert found.resource_utilization == {"cpu": 2 / 6, "io": 4 / 16, "async": 2 / 40}
    assert found.run_time == {"cpu": 2.0, "io": 4.0, "async": 2.0}
    assert measured(graph_of([()]), [SUCCEEDED], began()._replace(payload=b"")).resource_utilization == {
        "cpu": 0.0, "io": 0.0, "async": 0.0,
    }  # fmt: skip


def test_a_wide_step_keeps_several_slots_busy() -> None:
    found = measured(
        graph_of([(), ()], specs=[spec(LANE_CPU)._replace(slots=3), spec(LANE_CPU)]),
        [SUCCEEDED] * 2,
        began(10.0, 4, 0, 0),
        Fact(FACT_SUCCEEDED, 0, 12.0, 1, 1, 10.0, 10.0, 2.0, b""),
        Fact(FACT_SUCCEEDED, 1, 12.0, 1, 1, 10.0, 10.0, 2.0, b""),
        ended(12.0),
    )
    assert (found.resource_utilization["cpu"], found.run_time["cpu"]) == (1.0, 4.0)


def test_waves_are_the_depths_of_the_graph() -> None:
    found = measured(
        graph_of([(), (0,), (), (1, 2)], after=[(), (), (0,), ()]),
        [SUCCEEDED, SUCCEEDED, SUCCEEDED, CANCELLED],
        began(),
        Fact(FACT_SUCCEEDED, 0, 11.0, 1, 1, 10.0, 10.0, 1.0, b""),
        Fact(FACT_SUCCEEDED, 2, 14.0, 1, 1, 11.0, 11.0, 3.0, b""),
        Fact(FACT_SUCCEEDED, 1, 15.0, 1, 1, 11.0, 14.0, 1.0, b""),
        Fact(FACT_CANCELLED, 3, 15.0, 0, 0, 15.0, 15.0, 0.0, b"cancelled"),
        ended(15.0),
    )
    assert found.waves == [
        WaveMetrics(["s0"], 1010.0, 1011.0, 1.0),
        WaveMetrics(["s1", "s2"], 1011.0, 1015.0, 4.0),
        WaveMetrics(["s3"], None, 1015.0, 0.0),
    ]


def test_a_run_of_no_duration_has_no_parallelism() -> None:
    assert measured(graph_of([]), [], began(), ended(10.0)).parallelism_factor == 1.0


def some() -> WorkflowMetrics:
    return measured(
        graph_of([(), (0,)]),
        [FAILED, SKIPPED],
        began(),
        Fact(FACT_FAILED, 0, 12.0, 1, 1, 10.0, 10.5, 1.5, WHY, 7, MIB),
        Fact(FACT_SKIPPED, 1, 12.0, 0, 0, 12.0, 12.0, 0.0, b""),
        ended(12.0),
    )


def test_metrics_survive_json() -> None:
    found = some()
    again = WorkflowMetrics.from_json(found.to_json())
    assert again == found
    assert again.to_json() == found.to_json()
    assert again.steps["s0"].history == found.steps["s0"].history != []


@pytest.mark.parametrize("change", [{"steps": 1}, {"steps": {"a": 1}}, {"waves": [1]}, {"more": 1}, {"waves": None}])
def test_what_are_no_metrics_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the metrics of a run"):
        WorkflowMetrics.from_json(json.dumps({**json.loads(some().to_json()), **change}))


@pytest.mark.parametrize("text", ["", "no", "[]", "{}", "1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the metrics of a run"):
        WorkflowMetrics.from_json(text)
