"""The integration scenarios of pf-workflow-core, each in this process, in parallel, in waves and on remote workers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers import ROOT, parity, steps, wait_until
from helpers.daemons import Daemons
from helpers.stories import TERMINAL, check_order, check_terminals, intervals, peak, story
from pfw import (
    CancellationToken,
    Client,
    Config,
    FileProgress,
    Hint,
    LocalCluster,
    MapNode,
    Retry,
    RetryExhaustedError,
    Run,
    Workflow,
    run,
    start,
    step,
)

#: CPU and IO slots of each place that has slots, all workers together.
CPU, IO = 2, 8

extract, transform, load = step(parity.extract), step(parity.transform), step(parity.load, hint="light_io")
ingest, merge = step(parity.ingest, hint="light_io"), step(parity.merge)
join, square, total = step(parity.join), step(parity.square), step(parity.total)
burn, pause = step(parity.burn, hint="heavy_cpu"), step(parity.pause, hint="light_io")
divide, connect = step(parity.divide), step(parity.connect)


class Place(NamedTuple):
    """Where and how a scenario is run."""

    mode: str
    on: Client | None

    @property
    def is_concurrent(self) -> bool:
        return self.mode != "sequential"

    def together(self, count: int) -> int:
        """How many of so many waiting steps are under way at once."""
        return count if self.is_concurrent else 1

    def run(self, wf: Workflow, **options: Any) -> Run:
        return run(wf, mode=self.mode, on=self.on, **options)

    def start(self, wf: Workflow, **options: Any) -> Run:
        return start(wf, mode=self.mode, on=self.on, **options)


def warm(client: Client) -> None:
    """Starts every slot, so that a scenario measures steps and not their processes."""
    with Workflow("warm") as wf:
        step(time.sleep, hint="light_io").map([0.05] * IO)
        burn.map([0.01] * 2 * CPU)
        wf.returns(total([]))
    run(wf, on=client)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with LocalCluster(cpu=CPU, io=IO) as found:
        warm(found)
        yield found


@pytest.fixture(scope="module")
def remote() -> Iterator[Client]:
    """A coordinator and two workers over TCP, which import the step functions like an installed package."""
    folder = Path(tempfile.mkdtemp(prefix="pfw-test-"))
    daemons = Daemons(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT / "tests")]))
        try:
            daemons.start_coordinator()
            for _ in range(2):
                daemons.start_worker(cpu=CPU // 2, io=IO // 2)
            with Client(daemons.address) as client:
                warm(client)
                yield client
        finally:
            daemons.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sequential", "parallel", "waves", "remote"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "sequential":
        return Place("sequential", None)
    if request.param == "remote":
        return Place("parallel", request.getfixturevalue("remote"))
    return Place(request.param, request.getfixturevalue("cluster"))


# ---------------------------------------------------------------- the scenarios


def test_etl_sequential(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with Workflow("etl") as wf:
        load(transform(extract(10)), str(target))
    found = place.run(wf, keep="all")
    assert found.value == 5
    assert target.read_text().splitlines() == ["0,1", "2,5", "4,17", "6,37", "8,65"]
    assert found.outputs["extract"] == [{"id": n, "value": n * n} for n in range(10)]
    assert found.outputs["transform"] == [{"id": n, "value": n * n + 1} for n in range(0, 10, 2)]
    chain = [(kind, name) for name in ("extract", "transform", "load") for kind in ("Started", "Completed")]
    assert story(found, "Started", "Completed") == chain
    assert peak(intervals(found, wf.order())) <= 1
    assert found.metrics.parallelism_factor <= 1.0
    assert [wave.steps for wave in found.metrics.waves] == [["extract"], ["transform"], ["load"]]


def test_parallel_data_ingestion(place: Place, tmp_path: Path) -> None:
    names, pause_s = [f"from-{name}" for name in ("orders", "users", "clicks", "stock", "prices", "logs")], 0.2
    with Workflow("ingestion") as wf:
        merge(ingest.map(names, folder=str(tmp_path), together=place.together(len(names)), pause_s=pause_s))
    found = place.run(wf)
    assert found.value == {name: len(name) for name in names}
    assert list(found.value) == names
    check_order(found, wf)
    metrics = found.metrics
    spans = intervals(found, [f"ingest[{n}]" for n in range(len(names))])
    assert all(pause_s <= metrics.steps[f"ingest[{n}]"].run_time for n in range(len(names)))
    assert metrics.parallelism_factor == pytest.approx(sum(metrics.run_time.values()) / metrics.total_duration)
    assert peak(spans) == place.together(len(names))
    if place.is_concurrent:
        assert metrics.total_duration < 0.6 * sum(metrics.run_time.values())
    else:
        assert metrics.total_duration >= len(names) * pause_s


def test_multi_level_dag(place: Place, tmp_path: Path) -> None:
    # In parallel mode what lingers ends when the level below it has ended; in the others that waits for it.
    file, pause_s = str(tmp_path / "signed"), 20.0 if place.mode == "parallel" else 0.1
    with Workflow("levels") as wf:
        root = join.options(id="root")("r")
        left, middle = (join.options(id=name)(root) for name in ("left", "middle"))
        right = step(parity.linger, hint="light_io").options(id="right")(file, pause_s, root)
        low = join.options(id="low")(left, middle)
        high = join.options(id="high")(middle, right, root)
        # A step of its own: once it has begun, the end of the one before it is known.
        signed = step(parity.sign).options(id="signed")(file, low)
        join.options(id="top")(signed, high, left)
    levels = [["root"], ["left", "middle", "right"], ["high", "low"], ["signed"], ["top"]]
    assert [sorted(wave) for wave in wf.waves()] == levels
    found = place.run(wf, keep="all")
    assert found.value == "(((((r)) ((r)))) (((r)) ((r)) (r)) ((r)))"
    assert found.outputs["low"] == "(((r)) ((r)))"
    ends = story(found, "Completed")
    is_early = ends.index(("Completed", "low")) < ends.index(("Completed", "right"))
    assert is_early == (place.mode == "parallel")
    check_order(found, wf)
    check_terminals(found)


def test_retry_on_transient_failures(place: Place) -> None:
    backoff = Retry(retries=3, backoff=0.05, jitter="none")
    with Workflow("transient") as wf:
        good = connect.options(retry=backoff, id="good")(3)
        join(good)
        connect.options(retry=Retry(retries=1, backoff=0.01), id="bad")(9)
    found = place.run(wf, check=False, on_failure="continue", keep="all")
    assert found.outputs["join"] == "(connected at attempt 3)"
    metrics = found.metrics
    assert (metrics.steps["good"].attempts, metrics.steps["bad"].attempts, metrics.retries) == (3, 2, 3)
    mine = [event for event in found.events() if event.step_id == "good"]
    tries = ["Queued", "Started", "Retrying", "Started", "Retrying", "Started", "Completed"]
    assert [event.type for event in mine] == tries
    errors = ["ConnectionError: attempt 1 of 3", "ConnectionError: attempt 2 of 3"]
    assert [event.error for event in mine if event.type == "Retrying"] == errors
    assert [attempt.error for attempt in metrics.steps["good"].history] == [*errors, None]
    # The delays double: 50 ms before the first retry, 100 ms before the second one.
    at = [event.timestamp for event in mine if event.type != "Queued"]
    assert at[2] - at[1] >= 0.05 - 0.001
    assert at[4] - at[3] >= 0.1 - 0.001
    error = found.errors["bad"]
    assert isinstance(error, RetryExhaustedError)
    assert (error.attempts, type(error.__cause__), str(error.__cause__)) == (2, ConnectionError, "attempt 2 of 9")
    check_terminals(found)


def test_cancellation_in_a_long_workflow(place: Place, tmp_path: Path) -> None:
    stages = 20
    with Workflow("long") as wf:
        running = step(steps.obey_check, hint="light_io").options(id="running")(str(tmp_path), "running")
        stage = step(steps.mark)
        for number in range(stages):
            stage.options(id=f"stage{number}")(str(tmp_path), f"stage{number}", running)
    token = CancellationToken()
    found = place.start(wf, token=token)
    wait_until((tmp_path / "running").exists, 20, what="the long step")
    token.cancel("enough")
    assert found.wait(20)
    receipt = found.cancel()  # it has ended: this only asks what became of it
    assert receipt.steps.pop("running").how == "stopped itself"
    assert {end.how for end in receipt.steps.values()} == {"never started"}
    assert found.status == "CANCELLED"
    assert (tmp_path / "running-stopped").exists()  # it saw its token
    assert sorted(file.name for file in tmp_path.iterdir()) == ["running", "running-stopped"]
    assert set(found.states.values()) <= {"SUCCEEDED", "CANCELLED"}
    assert [found.states[f"stage{number}"] for number in range(stages)] == ["CANCELLED"] * stages
    check_terminals(found)
    assert {str(event.message).partition(":")[0] for event in found.events() if event.type == "Cancelled"} == {"enough"}
    # What it held is free again.
    with Workflow("after") as after:
        names = [f"next-{number}" for number in range(IO)]
        merge(ingest.map(names, folder=str(tmp_path), together=place.together(IO), pause_s=0.0))
    assert place.run(after).value == dict.fromkeys(names, 6)


def test_progress_events_of_a_whole_run(place: Place) -> None:
    with Workflow("progress") as wf:
        bad = divide(1, 0)
        join(bad)
        total(square.map(range(5)))
    seen: list[Any] = []
    found = place.run(wf, progress=seen.append, check=False, on_failure="continue", keep="all")
    assert found.outputs["total"] == 30
    assert [(event.type, event.step_id, event.attempt) for event in seen] == [
        (event.type, event.step_id, event.attempt) for event in found.events()
    ]
    assert (seen[0].type, seen[-1].type, seen[-1].message) == ("RunStarted", "RunFinished", "FAILED")
    check_order_of_each_step(seen)
    check_terminals(found)
    failed = next(event for event in seen if event.type == "Failed")
    assert (failed.step_id, failed.error) == ("divide", "ZeroDivisionError: division by zero")
    assert {event.run_id for event in seen} == {found.id}
    completed = [event for event in seen if event.type == "Completed"]
    assert all(event.duration is not None and event.worker for event in completed)


def check_order_of_each_step(seen: list[Any]) -> None:
    of_step: dict[str, list[str]] = {}
    for event in seen[1:-1]:
        of_step.setdefault(event.step_id, []).append(event.type)
    ways = {tuple(types) for types in of_step.values()}
    assert ways == {("Queued", "Started", "Completed"), ("Queued", "Started", "Failed"), ("Skipped",)}


def test_mixed_sequential_and_parallel(place: Place, tmp_path: Path) -> None:
    with Workflow("mixed") as wf:
        prepared = join.options(id="prepare")("p")
        pauses = waiting(place, tmp_path, "wide", 4, 0.1)
        pauses.after(prepared)
        middle = join.options(id="middle")(pauses)
        again = waiting(place, tmp_path, "slim", 3, 0.1)
        again.after(middle)
        join.options(id="finish")(middle, again)
    found = place.run(wf)
    assert found.value == "((['wide0', 'wide1', 'wide2', 'wide3']) ['slim0', 'slim1', 'slim2'])"
    check_order(found, wf)
    for name, count in (("wide", 4), ("slim", 3)):
        assert peak(intervals(found, [f"{name}[{n}]" for n in range(count)])) == place.together(count)
    assert peak(intervals(found, ["prepare", "middle", "finish"])) <= 1


def waiting(place: Place, folder: Path, name: str, count: int, pause_s: float) -> MapNode:
    """So many steps that wait for each other, where that can be, and then for a time."""
    names = [f"{name}{number}" for number in range(count)]
    return pause.options(id=name).map(names, folder=str(folder), together=place.together(count), pause_s=pause_s)


def test_resource_aware_scheduling(place: Place, tmp_path: Path) -> None:
    with Workflow("resources") as wf:
        computing = burn.map([0.1] * 3 * CPU)
        wf.returns([computing, waiting(place, tmp_path, "wait", IO, 0.2)])
    found = place.run(wf)
    assert [used >= 0.1 for used in found.value[0]] == [True] * 3 * CPU
    burns = intervals(found, [f"burn[{n}]" for n in range(3 * CPU)])
    pauses = intervals(found, [f"wait[{n}]" for n in range(IO)])
    assert peak(burns) == place.together(CPU)
    # Those that wait have slots of their own: all of them at once, beside those that compute.
    assert peak(pauses) == place.together(IO)
    assert peak([*burns, *pauses]) > IO or not place.is_concurrent
    metrics = found.metrics
    assert metrics.run_time["io"] >= IO * 0.2
    assert sum(metrics.steps[f"burn[{n}]"].cpu_time for n in range(3 * CPU)) >= 3 * CPU * 0.1 * 0.9
    assert 0 < metrics.resource_utilization["cpu"] <= 1


def test_resource_aware_scheduling_keeps_to_its_caps(place: Place) -> None:
    nap, calling = step(time.sleep, hint="light_io"), step(time.sleep, hint="light_io" + Hint.limit("api", 2))
    with Workflow("caps") as wf:
        nap.options(id="nap").map([0.05] * IO)
        calling.options(id="call").map([0.05] * IO)
        wf.returns(total([]))
    naps, calls = ([f"{name}[{n}]" for n in range(IO)] for name in ("nap", "call"))
    found = place.run(wf)
    assert peak(intervals(found, calls)) <= 2
    capped = place.run(wf, config=Config(max_parallel_steps=3))
    assert peak(intervals(capped, [*naps, *calls])) <= 3


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_error_propagation_stops_dependent_steps(place: Place, tmp_path: Path, on_failure: str) -> None:
    mark = step(steps.mark)
    with Workflow("propagation") as wf:
        first = join.options(id="first")("f")
        bad = divide.options(id="bad", after=first)(1, 0)
        child = mark.options(id="child")(str(tmp_path), "child", bad)
        mark.options(id="grandchild")(str(tmp_path), "grandchild", child)
        square.options(id="apart")(3)
    found = place.run(wf, check=False, on_failure=on_failure, keep="all")
    assert found.status == "FAILED"
    assert {name: found.states[name] for name in ("first", "bad", "child", "grandchild")} == {
        "first": "SUCCEEDED", "bad": "FAILED", "child": "SKIPPED", "grandchild": "SKIPPED",
    }  # fmt: skip
    if on_failure == "continue":
        assert found.states["apart"] == "SUCCEEDED"
    assert not list(tmp_path.iterdir())
    error = found.errors["bad"]
    assert (error.step, error.attempts, type(error.__cause__)) == ("bad", 1, ZeroDivisionError)
    assert "division by zero" in str(error)
    assert "in divide" in error.remote_traceback
    assert found.outputs["first"] == "(f)"  # what was done before is not lost
    assert found.metrics.successful_steps >= 1
    assert not [event for event in story(found, "Started") if event[1] in ("child", "grandchild")]
    check_terminals(found)


def test_50_step_high_volume(place: Place) -> None:
    with Workflow("volume") as wf:
        total(square.map(range(49)))
    seen: list[Any] = []
    found = place.run(wf, progress=seen.append)
    assert found.value == sum(n * n for n in range(49))
    metrics = found.metrics
    assert (metrics.total_steps, metrics.successful_steps, metrics.failed_steps, metrics.retries) == (50, 50, 0, 0)
    assert Counter(event.type for event in seen) == {
        "RunStarted": 1, "Queued": 50, "Started": 50, "Completed": 50, "RunFinished": 1,
    }  # fmt: skip
    check_order(found, wf)
    check_terminals(found)


def test_file_progress_log(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with Workflow("log") as wf:
        total(square.map(range(3)))
        join(divide(1, 0))
    found = place.run(wf, progress=str(log), check=False, on_failure="continue")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    # What the crate's users read of each line.
    assert all(row.keys() >= {"type", "step_id", "timestamp", "message"} for row in rows)
    assert [(row["type"], row["step_id"] or None) for row in rows] == [
        (event.type.lower(), event.step_id) for event in found.events()
    ]
    assert (rows[0]["type"], rows[-1]["type"]) == ("runstarted", "runfinished")
    ends = {row["step_id"]: row["type"] for row in rows if row["type"].capitalize() in TERMINAL}
    squares = [f"square[{n}]" for n in range(3)]
    assert ends == {**dict.fromkeys([*squares, "total"], "completed"), "divide": "failed", "join": "skipped"}
    failed = next(row for row in rows if row["type"] == "failed")
    assert failed["error"] == "ZeroDivisionError: division by zero"
    assert {row["run_id"] for row in rows} == {found.id}
    times = [row["timestamp"] for row in rows if row["type"] in ("completed", "failed", "skipped")]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 60  # s since 1970
    again = place.run(wf, progress=FileProgress(log, append=True), check=False, on_failure="continue")
    assert {json.loads(line)["run_id"] for line in log.read_text().splitlines()} == {found.id, again.id}
