"""What a run has cost, measured on real processes, in every mode and every ending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import LocalCluster, Retry, Workflow, WorkflowMetrics, run, start, step

MODES = ("sequential", "parallel", "waves")
MIB = 1 << 20
BURN_S = 0.1
LOAD_S = 0.3


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def grow(size: int) -> int:
    return sum(bytearray(b"x") * size) // ord("x")


def nap(seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


async def burn_async(seconds: float) -> None:
    await asyncio.sleep(seconds)
    burn(seconds)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=1, io=8) as found:
        yield found


@pytest.mark.parametrize("mode", MODES)
def test_computing_waiting_and_memory_are_measured_apart(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        burned = step(burn)(BURN_S)
        grown = step(grow)(64 * MIB).after(burned)
        napped = step(nap)(BURN_S).after(grown)
        step(burn_async)(BURN_S).after(napped)
    found = run(wf, mode=mode, on=cluster).metrics
    assert {name: known.status for name, known in found.steps.items()} == dict.fromkeys(found.steps, "SUCCEEDED")
    assert all(known.run_time >= BURN_S for name, known in found.steps.items() if name != "grow")
    cpu = {name: known.cpu_time for name, known in found.steps.items()}
    assert cpu["burn"] >= BURN_S
    assert cpu["nap"] < BURN_S
    assert BURN_S <= cpu["burn_async"] < found.steps["burn_async"].run_time
    peaks = {name: known.memory_peak or 0 for name, known in found.steps.items()}
    assert peaks["grow"] > 64 * MIB
    assert peaks["nap"] < peaks["grow"] - 32 * MIB, "the peak of one step is not that of the next"
    assert found.peak_memory == max(peaks.values())
    assert 0 < found.resource_utilization["cpu"] <= 1
    assert 0 < found.resource_utilization["async"] <= 1
    assert [wave.steps for wave in found.waves] == [["burn"], ["grow"], ["nap"], ["burn_async"]]
    assert WorkflowMetrics.from_json(found.to_json()) == found


class SlowToLoad:
    """Unpickled, it is None, after LOAD_S of computing."""

    def __reduce__(self) -> tuple[object, ...]:
        return burn, (LOAD_S,)


def loaded_slowly(*, is_async: bool) -> Callable[[], Any]:
    held = SlowToLoad()

    def quick() -> bool:
        return held is None

    async def quick_async() -> bool:
        return held is None

    return quick_async if is_async else quick


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_async", [False, True])
def test_loading_a_function_is_no_part_of_its_run_time(cluster: LocalCluster, mode: str, is_async: bool) -> None:
    with Workflow() as wf:
        step(loaded_slowly(is_async=is_async), name="quick")()
    found = run(wf, mode=mode, on=cluster)
    known = found.metrics.steps["quick"]
    assert found.value
    assert known.run_time < LOAD_S < found.metrics.total_duration
    assert known.cpu_time < LOAD_S


@pytest.mark.parametrize("mode", MODES)
def test_what_failed_is_measured_too(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        step(steps.give)(step(steps.fail_until, retry=Retry(retries=2, backoff=0.001))(99))
    found = run(wf, mode=mode, on=cluster, check=False).metrics
    assert found.total_duration > 0
    bad, skipped = found.steps["fail_until"], found.steps["give"]
    assert (bad.status, bad.attempts, bad.error) == ("FAILED", 3, "ConnectionError: attempt 3")
    assert [attempt.error for attempt in bad.history] == [f"ConnectionError: attempt {n}" for n in (1, 2, 3)]
    assert [attempt.status for attempt in bad.history] == ["FAILED"] * 3
    assert bad.run_time == sum(attempt.run_time for attempt in bad.history)
    assert (skipped.status, skipped.attempts, skipped.run_time) == ("SKIPPED", 0, 0.0)


def test_what_was_cancelled_is_measured_too(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        held = step(steps.hold, hint="light_io")(str(tmp_path), "it")
        step(steps.give)(held)
    found = start(wf, on=cluster)
    wait_until((tmp_path / "it").exists, what="it runs")
    burn(BURN_S)
    found.cancel("enough")
    assert found.wait(20)
    known = found.metrics.steps["hold"]
    assert (known.status, known.attempts, len(known.history)) == ("CANCELLED", 1, 1)
    assert known.run_time >= BURN_S
    assert known.worker
    assert found.metrics.parallelism_factor > 0
    never = found.metrics.steps["give"]
    assert (never.status, never.attempts, never.run_time, never.started_at) == ("CANCELLED", 0, 0.0, None)


def test_steps_that_sleep_run_at_once_and_the_factor_says_so(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        step(nap, hint="light_io").map([0.5] * 8)
    for _ in range(2):  # at first its slots have to be started, and to load the function
        began = time.monotonic()
        found = run(wf, on=cluster)
        wall_s = time.monotonic() - began
        spans = found.value
        slept_s = sum(until - since for since, until in spans)
        most = slept_s / (max(until for _, until in spans) - min(since for since, _ in spans))
        assert slept_s / wall_s <= found.metrics.parallelism_factor <= 1.1 * most
    assert found.metrics.parallelism_factor > 4
    assert found.metrics.resource_utilization["io"] == pytest.approx(found.metrics.parallelism_factor / 8)
