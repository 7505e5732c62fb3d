"""Cancelling a run: what has not begun does not begin, what runs is told, interrupted, and at last killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import LocalCluster, Retry, Run, RunCancelledError, Workflow, host, run, start, step

SLOTS = {"cpu": 2, "io": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(**SLOTS) as found:
        yield found


@pytest.fixture(autouse=True)
def slots_are_usable_again(cluster: LocalCluster, tmp_path: Path) -> Iterator[None]:
    """After each test all slots work, at the same time, and nothing of the test is held any more."""
    yield
    folder = tmp_path / "afterwards"
    folder.mkdir()
    with Workflow() as wf:
        step(steps.meet).map([str(folder)] * 2, ["cpus0", "cpus1"], count=2)
        step(steps.meet, hint="light_io").map([str(folder)] * 2, ["ioio0", "ioio1"], count=2)
        step(steps.meet_async).map([str(folder)] * 2, ["asyn0", "asyn1"], count=2)
    assert run(wf, on=cluster).status == "SUCCEEDED"
    assert cluster.status()["held"] == 0
    assert cluster.status()["runs"] == 0


def began(folder: Path, name: str = "it") -> int:
    """Waits until the step has begun; returns the id of its process."""
    path = folder / name
    return int(wait_until(lambda: path.exists() and path.read_text(), what=f"{name} has begun").split()[0])


def cancel(found: Run, reason: str = "enough") -> None:
    found.cancel(reason)
    assert found.wait(20)
    assert found.status == "CANCELLED"
    with pytest.raises(RunCancelledError, match=reason) as caught:
        found.check()
    assert caught.value.run is found
    assert caught.value.reason == reason


STOPPABLE = [steps.obey_token, steps.obey_check, steps.sleep_long, steps.sleep_long_async]


@pytest.mark.parametrize("fn", STOPPABLE, ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("hint", ["light_cpu", "light_io"])
def test_a_running_step_is_told_to_stop_and_its_process_lives(
    cluster: LocalCluster, tmp_path: Path, fn: Any, hint: str
) -> None:
    is_async = fn is steps.sleep_long_async
    with Workflow() as wf:
        node = step(fn, hint=None if is_async else hint, grace=20.0 if fn in STOPPABLE[:2] else 1.0)(
            str(tmp_path), "it"
        )
    found = start(wf, on=cluster)
    pid = began(tmp_path)
    cancel(found)
    assert (tmp_path / "it-stopped").exists()
    assert found.states == {node.id: "CANCELLED"}
    assert found.errors == {}
    assert host.is_alive(pid)


@pytest.mark.parametrize("hint", ["light_cpu", "light_io"])
def test_a_step_that_ignores_everything_is_killed_after_its_grace(
    cluster: LocalCluster, tmp_path: Path, hint: str
) -> None:
    with Workflow() as wf:
        step(steps.ignore_all, hint=hint, grace=0.2)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    pid = began(tmp_path)
    cancel(found)
    wait_until(lambda: not host.is_alive(pid), what="its process is gone")


def block_loop(folder: str, name: str) -> None:
    steps.ignore_all(folder, name)


async def block_loop_async(folder: str, name: str) -> None:
    steps.ignore_all(folder, name)


def test_an_async_step_that_blocks_its_process_is_killed_and_its_neighbours_run_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with Workflow() as bystanders:
        step(steps.hold_async)(str(tmp_path), "other", "fine")
    other = start(bystanders, on=cluster)
    began(tmp_path, "other")
    with Workflow() as wf:
        step(block_loop_async, grace=0.2)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    began(tmp_path)
    cancel(found)
    (tmp_path / "go").touch()
    assert other.value == "fine"
    assert other.metrics.steps["hold_async"].attempts == 1


def test_steps_that_have_not_begun_do_not_begin(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.obey_check).map([str(tmp_path)] * 2, ["it", "it2"])
        late = step(steps.mark).map([str(tmp_path)] * 500, [f"late{n}" for n in range(500)])
    wf["mark"].after(wf["obey_check"])
    with Workflow() as crowd:
        # More than there are slots: the rest waits at the worker or the coordinator.
        step(steps.obey_check).map([str(tmp_path)] * 200, [f"crowd{n}" for n in range(200)])
    found = start(wf, on=cluster)
    began(tmp_path), began(tmp_path, "it2")
    waiting = start(crowd, on=cluster)
    wait_until(lambda: waiting.id, what="the second run is accepted")
    cancel(waiting)
    cancel(found)
    assert not list(tmp_path.glob("late*"))
    assert not list(tmp_path.glob("crowd*"))
    assert {found.states[node.id] for node in late.nodes} == {"CANCELLED"}
    events = [event.type for event in waiting.events() if event.step_id]
    assert set(events) == {"Cancelled"}
    assert len(events) == 200


def test_what_was_done_before_the_cancel_stands(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        first = step(steps.give)("first")
        step(steps.obey_check)(str(tmp_path), "it").after(first)
    found = start(wf, on=cluster, keep="all")
    began(tmp_path)
    wait_until(lambda: found.states[first.id] == "SUCCEEDED", what="the first is done")
    cancel(found)
    assert found.outputs[first] == "first"
    assert found.metrics.successful_steps == 1


def test_a_cancelled_step_is_not_tried_again(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.sleep_long, retry=10, grace=0.2)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    began(tmp_path)
    cancel(found)
    assert [event.type for event in found.events() if event.step_id][-1] == "Cancelled"
    assert "Retrying" not in {event.type for event in found.events()}


def finish_anyway(folder: str, name: str) -> str:
    steps.obey_token(folder, name)
    return "a result that comes too late"


def fail_anyway(folder: str, name: str) -> None:
    steps.obey_token(folder, name)
    raise ValueError("an error that comes too late")


def crash_anyway(folder: str, name: str) -> None:
    steps.obey_token(folder, name)
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("fn", [finish_anyway, fail_anyway, crash_anyway], ids=lambda fn: fn.__name__)
def test_nothing_that_comes_after_the_cancel_counts(cluster: LocalCluster, tmp_path: Path, fn: Any) -> None:
    with Workflow() as wf:
        step(fn, grace=20.0, retry=3)(str(tmp_path), "it")
    found = start(wf, on=cluster, keep="all")
    began(tmp_path)
    cancel(found)
    assert found.states == {fn.__name__: "CANCELLED"}
    assert (dict(found.outputs), found.errors) == ({}, {})


def test_a_backoff_ends_at_once(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        step(steps.fail_until, retry=Retry(retries=3, backoff=600.0, max_delay=600.0, jitter="none"))(99)
    found = start(wf, on=cluster)
    wait_until(lambda: found.states["fail_until"] == "BACKOFF", what="the backoff")
    cancel(found)


def test_cancelling_again_changes_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.obey_check)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    began(tmp_path)
    found.cancel("enough")
    cancel(found)
    found.cancel("too late")
    assert found.status == "CANCELLED"
    done = run(wf_of_one(), on=cluster)
    done.cancel("too late")
    assert (done.status, done.value) == ("SUCCEEDED", 1)


def wf_of_one() -> Workflow:
    with Workflow() as wf:
        step(steps.give)(1)
    return wf


def test_a_run_can_be_cancelled_before_it_is_accepted(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.obey_check)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    cancel(found)
    assert found.states == {"obey_check": "CANCELLED"}


def test_only_the_cancelled_run_is_cancelled(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.hold)(str(tmp_path), "kept", "fine")
    kept = start(wf, on=cluster)
    with Workflow() as wf:
        step(steps.sleep_long, grace=0.2)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    began(tmp_path, "kept")
    began(tmp_path)
    cancel(found)
    (tmp_path / "go").touch()
    assert kept.value == "fine"


def test_a_failure_with_abort_stops_what_runs(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        running = step(steps.sleep_long, grace=0.2)(str(tmp_path), "it")
        gate = step(steps.hold, hint="light_io")(str(tmp_path), "gate")
        bad = step(steps.fail)("aborts").after(gate)
    found = start(wf, on=cluster, on_failure="abort")
    began(tmp_path)
    (tmp_path / "go").touch()
    assert found.wait(20)
    assert (found.status, found.states[bad.id], found.states[running.id]) == ("FAILED", "FAILED", "CANCELLED")
    assert (tmp_path / "it-stopped").exists()
