"""Tolerant steps, kept outputs, priorities and parameters in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import Failed, LocalCluster, StepFailedError, Workflow, current, run, start, step

MODES = ("sequential", "parallel", "waves")

double, fail, give = map(step, (steps.double, steps.fail, steps.give))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


@step
def halve(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


@step(run_if="any")
def total_of_some(numbers: list[int], one: Any = "not given") -> tuple[int, int, Any]:
    return sum(numbers), len(numbers), one


@step(run_if="always")
def report(*results: Any) -> list[str]:
    return [f"{r.step_id}: {r.error.__cause__}" if isinstance(r, Failed) else str(r) for r in results]


@step(run_if="always")
async def report_later(results: list[Any]) -> int:
    return sum(isinstance(result, Failed) for result in results)


@pytest.mark.parametrize("mode", MODES)
def test_tolerant_reduces(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        halves = halve.map([2, 3, 4, 5])
        total_of_some(halves, one=halves[1])
        report(halves[0], halves[1], double(halves[3]))
        report_later(halves)
    found = run(wf, mode=mode, on=cluster, on_failure="continue", check=False)
    assert (found.status, found.states["double"]) == ("FAILED", "SKIPPED")
    assert found.outputs["total_of_some"] == (3, 2, None)
    first, second, third = found.outputs["report"]
    assert (first, second) == ("1", "halve[1]: 3 is odd")
    assert third == "double: None"
    assert found.outputs["report_later"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_cleanup_runs_in_a_run_that_stops(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        bad = fail("no good")
        report(bad)
        double(bad)
        double.options(id="later")(give(1).after(bad))
    with pytest.raises(StepFailedError, match="no good") as failure:
        run(wf, mode=mode, on=cluster)
    found = failure.value.run
    assert found.outputs["report"] == ["fail: no good"]
    assert (found.states["double"], found.states["later"]) == ("SKIPPED", "SKIPPED")


@pytest.mark.parametrize("mode", MODES)
def test_a_step_may_keep_its_own_output(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        double(double.options(id="kept", keep=True)(double.options(id="freed")(1)))
    found = run(wf, mode=mode, on=cluster)
    assert dict(found.outputs) == {"kept": 4, "double": 8}


@pytest.mark.parametrize("mode", MODES)
def test_steps_read_the_parameters_of_their_workflow(cluster: LocalCluster, mode: str) -> None:
    with Workflow("named", version="2026.1", params={"scale": 3, "names": ["a"]}) as wf:
        values = [step(fn)() for fn in (read_params, read_params_later)]
        wf.returns([*values, give(0)])
    found = run(wf, mode=mode, on=cluster)
    assert found.value == [{"scale": 3, "names": ["a"]}, 3, 0]
    assert found.version == "2026.1"
    assert run(Workflow().add(read_params).workflow, mode=mode, on=cluster).value == {}


def read_params() -> dict[str, Any]:
    return dict(current().params)


async def read_params_later() -> Any:
    return current().params["scale"]


def test_runs_are_listed_with_their_versions(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow("versioned", version="7b") as wf:
        step(steps.hold, hint="light_io")(str(tmp_path), "held")
    found = start(wf, on=cluster)
    wait_until(lambda: found.id, what="the run's id")
    assert {row["id"]: row["version"] for row in cluster.runs()}[found.id] == "7b"
    (tmp_path / "go").touch()
    assert found.wait(20)


def test_of_the_ready_steps_the_one_of_the_highest_priority_goes_first() -> None:
    order = ("low", "middle", "high")
    with Workflow() as wf:
        give.options(id="first")(0)
        for rank, name in enumerate(order):
            step(steps.give, hint="heavy_cpu").options(id=name, priority=rank, tags=("ranked", name))(rank)
    with LocalCluster(cpu=1, io=1) as cluster:
        runs = [run(wf, on=cluster), run(wf, on=cluster, mode="waves"), run(wf, mode="sequential")]
    for found in runs:
        started = [event.step_id for event in found.events() if event.type == "Started"]
        assert [name for name in started if name in order] == ["high", "middle", "low"]
        assert found.metrics.steps["high"].tags == ["ranked", "high"]
