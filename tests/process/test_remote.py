"""Daemons over TCP: several workers, several clients, and what happens when one of them goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, steps, wait_until
from helpers.daemons import Daemons, daemons, descendants
from pfw import (
    Client,
    ClusterError,
    Config,
    ConfigError,
    Retry,
    Run,
    RunCancelledError,
    RunTimeoutError,
    StepFailedError,
    UnknownRunError,
    WorkerLostError,
    Workflow,
    run,
    step,
)

__all__ = ["daemons"]

hold = step(steps.hold, hint="light_io")


@pytest.fixture(autouse=True)
def step_functions_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of their own import `helpers.steps` like any installed package."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT / "tests")]))


@pytest.fixture
def client(daemons: Daemons) -> Iterator[Client]:
    daemons.start_coordinator()
    with Client(daemons.address) as found:
        yield found


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def holding(folder: Path, count: int, **options: Any) -> Workflow:
    with Workflow("holding") as wf:
        held = hold.options(**options).map([str(folder)] * count, [f"held{n}" for n in range(count)], range(count))
        wf.returns(held)
    return wf


def wait_until_begun(folder: Path, count: int, daemons: Daemons) -> None:
    wait_until(lambda: len(list(folder.glob("held*"))) >= count, 20, what=f"{count} began", detail=daemons.tails)


def workers_of(found: Run, kind: str = "Completed") -> set[str]:
    return {event.worker for event in found.events() if event.type == kind}


# ---------------------------------------------------------------- workers


def test_work_goes_to_all_workers(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    names = {daemons.start_worker(cpu=1, io=3, name=name).name for name in ("left", "right")}
    with Workflow() as wf:
        # Six at once need both workers.
        meetings = step(steps.meet, hint="light_io").map([str(tmp_path)] * 6, [f"meet{n}" for n in range(6)], count=6)
        wf.returns(meetings)
    found = run(wf, on=client)
    assert found.value == [f"meet{n}" for n in range(6)]
    assert workers_of(found) == names
    status = client.status()
    assert (status["workers"], status["cpu"], status["io"], status["held"], status["oddities"]) == (2, 2, 6, 0, 0)
    known = {worker["name"]: worker for worker in client.workers()}
    assert set(known) == names
    wait_until(lambda: all(worker["rss_bytes"] > 1e6 for worker in client.workers()), what="figures of the workers")


def test_a_run_waits_for_its_first_worker(daemons: Daemons, client: Client) -> None:
    with Workflow() as wf:
        step(steps.double)(4)
    found = client.start(wf)
    assert (client.workers(), found.done()) == ([], False)
    daemons.start_worker()
    assert found.value == 8


def test_a_worker_that_is_killed_loses_nothing(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    doomed = daemons.start_worker(cpu=1, io=2, name="doomed")
    slots = descendants(doomed.pid)
    found = client.start(holding(tmp_path, 6))
    wait_until_begun(tmp_path, 2, daemons)
    daemons.start_worker(cpu=1, io=6, name="other")
    wait_until_begun(tmp_path, 6, daemons)
    doomed.signal(signal.SIGKILL)
    # The two that were lost begin again, on the other worker.
    wait_until(lambda: sum(len(lines(p)) for p in tmp_path.glob("held*")) == 8, 20, what="again", detail=daemons.tails)
    (tmp_path / "go").touch()
    assert found.value == list(range(6))
    assert workers_of(found) == {"other"}
    retried = [event for event in found.events() if event.type == "Retrying"]
    assert len(retried) == 2
    assert all("doomed" in (event.error or "") for event in retried)
    assert [worker["name"] for worker in client.workers()] == ["other"]
    wait_until(lambda: not any(slot.is_running() for slot in slots), what="the slots of the killed worker are gone")


def test_a_step_that_loses_three_workers_fails(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    found = client.start(holding(tmp_path, 1), on_failure="continue")
    for number in range(1, 4):
        worker = daemons.start_worker(cpu=1, io=1)
        wait_until(
            lambda count=number: len(lines(tmp_path / "held0")) == count, 20, what="it began", detail=daemons.tails
        )
        worker.signal(signal.SIGKILL)
        worker.wait()
    assert found.wait(20)
    (error,) = found.errors.values()
    assert isinstance(error, WorkerLostError)
    assert error.attempts == 3


@pytest.mark.parametrize("end", ["kill", "drain"])
def test_a_step_that_may_not_be_rerun_fails_with_its_worker(
    daemons: Daemons, client: Client, tmp_path: Path, end: str
) -> None:
    doomed = daemons.start_worker(cpu=1, io=2, options=["--drain-s", "0.2"])
    with Workflow() as wf:
        once = hold.options(rerun_on_loss=False, id="once", retry=5)(str(tmp_path), "held0")
        again = hold.options(id="again")(str(tmp_path), "held1", "done")
    found = client.start(wf, on_failure="continue", keep="all")
    wait_until_begun(tmp_path, 2, daemons)
    if end == "kill":
        doomed.signal(signal.SIGKILL)
    else:
        assert doomed.stop() == 0
    daemons.start_worker(cpu=1, io=2)
    (tmp_path / "go").touch()
    assert found.wait(20)
    assert found.states == {once.id: "FAILED", again.id: "SUCCEEDED"}
    assert isinstance(found.errors[once.id], WorkerLostError)
    assert found.errors[once.id].attempts == 1
    assert (len(lines(tmp_path / "held0")), len(lines(tmp_path / "held1"))) == (1, 2)


def test_a_retry_prefers_another_worker(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    for name in ("left", "right"):
        daemons.start_worker(cpu=1, io=1, name=name)
    wait_until(lambda: len(client.workers()) == 2, what="two workers")
    with Workflow() as wf:
        step(steps.fail_until, retry=Retry(retries=3, backoff=0.01))(4)
    found = run(wf, on=client)
    tried = [event.worker for event in found.events() if event.type == "Started"]
    assert tried in (["left", "right"] * 2, ["right", "left"] * 2)


def test_sigterm_drains_a_worker(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    leaving = daemons.start_worker(cpu=1, io=2, name="leaving")
    found = client.start(holding(tmp_path, 4))
    wait_until_begun(tmp_path, 2, daemons)
    leaving.signal(signal.SIGTERM)
    wait_until(lambda: client.workers()[0]["state"] == "leaving", what="it leaves", detail=daemons.tails)
    daemons.start_worker(cpu=1, io=4, name="staying")
    wait_until_begun(tmp_path, 4, daemons)
    assert leaving.is_alive()
    (tmp_path / "go").touch()
    assert leaving.wait() == 0
    assert found.value == list(range(4))
    # What ran was finished where it ran: nothing began twice, nothing was lost.
    assert [len(lines(path)) for path in tmp_path.glob("held*")] == [1] * 4
    assert workers_of(found) == {"leaving", "staying"}
    assert {known.attempts for known in found.metrics.steps.values()} == {1}


def test_a_drain_that_takes_too_long_gives_the_rest_to_others(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    leaving = daemons.start_worker(cpu=1, io=1, name="leaving", options=["--drain-s", "0.2"])
    found = client.start(holding(tmp_path, 1))
    wait_until_begun(tmp_path, 1, daemons)
    assert leaving.stop() == 0
    daemons.start_worker(cpu=1, io=1, name="staying")
    (tmp_path / "go").touch()
    assert found.value == [0]
    assert workers_of(found) == {"staying"}


def test_a_worker_that_stops_for_a_while_is_suspect_and_not_lost(
    daemons: Daemons, client: Client, tmp_path: Path
) -> None:
    frozen = daemons.start_worker(cpu=1, io=2, name="frozen")
    found = client.start(holding(tmp_path, 2))
    wait_until_begun(tmp_path, 2, daemons)
    frozen.signal(signal.SIGSTOP)
    wait_until(lambda: client.workers()[0]["state"] == "suspect", 20, what="it is suspect", detail=daemons.tails)
    (tmp_path / "late").mkdir()
    late = client.start(holding(tmp_path / "late", 1))
    frozen.signal(signal.SIGCONT)
    wait_until(lambda: client.workers()[0]["state"] == "ready", 20, what="it is back", detail=daemons.tails)
    for folder in (tmp_path, tmp_path / "late"):
        (folder / "go").touch()
    assert (found.value, late.value) == ([0, 1], [0])
    assert {known.attempts for known in found.metrics.steps.values()} == {1}
    assert frozen.is_alive()


def test_workers_find_a_coordinator_that_comes_later(daemons: Daemons) -> None:
    address = daemons.start_coordinator()
    first = daemons.coordinator
    worker = daemons.start_worker(cpu=1, io=1)
    first.signal(signal.SIGKILL)
    first.wait()
    daemons.start_coordinator(bind=address)
    with Client(address) as client:
        wait_until(client.workers, 20, what="the worker is back", detail=daemons.tails)
        assert client.submit(steps.double, 2).result(20) == 4
    assert worker.is_alive()


# ---------------------------------------------------------------- clients


def test_clients_and_runs_share_the_workers(daemons: Daemons, client: Client) -> None:
    for _ in range(2):
        daemons.start_worker(cpu=1, io=2)
    with Client(client.address) as other, Client(client.address) as third:
        runs = []
        for number in range(12):
            with Workflow(f"run {number}") as wf:
                step(steps.total)(step(steps.double).map(range(number, number + 40)))
            runs.append([client, other, third][number % 3].start(wf))
        futures = [other.submit(steps.add, 1, 2), *third.map(steps.double, range(10))]
        expected = [sum(2 * x for x in range(number, number + 40)) for number in range(12)]
        assert [found.value for found in runs] == expected
        assert other.gather(futures) == [3, *range(0, 20, 2)]
        assert len({found.id for found in runs}) == 12
        known = {each["id"]: each for each in third.runs()}
        assert {known[found.id]["status"] for found in runs} == {"SUCCEEDED"}
        assert {known[found.id]["succeeded"] for found in runs} == {41}


SUBMIT = """
import sys
from pfw import Client, Workflow, step
from helpers import steps

with Client(sys.argv[1]) as client:
    with Workflow("left behind") as wf:
        held = step(steps.hold, hint="light_io")(sys.argv[2], "held0", {"answer": 42})
        wf.returns({"all": [held["answer"]], "more": step(steps.double).map([held["answer"]] * 2)})
    print(client.start(wf, keep="all").id, flush=True)
    if sys.argv[3] == "stay":
        sys.stdin.read()
"""


def submit_elsewhere(daemons: Daemons, folder: Path, *, stay: bool) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUBMIT, daemons.address, str(folder), "stay" if stay else "go"],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=daemons.env,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_started_run_goes_on_without_its_client(daemons: Daemons, client: Client, tmp_path: Path, end: str) -> None:
    daemons.start_worker(cpu=1, io=2, name="only")
    process, run_id = submit_elsewhere(daemons, tmp_path, stay=end == "kill")
    with process:
        wait_until_begun(tmp_path, 1, daemons)
        if end == "kill":
            process.kill()
    found = client.attach(run_id)
    assert (found.id, found.name, found.status) == (run_id, "left behind", "RUNNING")
    (tmp_path / "go").touch()
    assert found.value == {"all": [42], "more": [84, 84]}
    assert found.outputs["hold"] == {"answer": 42}
    events = [(event.type, event.step_id) for event in found.events()]
    assert (events[0], events[-1]) == (("RunStarted", None), ("RunFinished", None))
    assert events.count(("Completed", "hold")) == 1
    assert found.metrics.successful_steps == 3
    # Also for somebody who comes when all is over, and twice.
    with Client(client.address) as late:
        for _ in range(2):
            again = late.attach(run_id)
            assert again.wait(20)
            assert again.value == found.value
            assert [(event.type, event.step_id) for event in again.events()] == events


def test_a_started_run_takes_a_config(daemons: Daemons, client: Client) -> None:
    daemons.start_worker()
    config = Config(retry=Retry(retries=1, backoff=0.001), keep="all")
    with Workflow() as wf:
        step(steps.give)(step(steps.fail_until)(2, "late"))
    found = client.start(wf, config=config, key="once")
    assert found.value == "late"
    assert set(found.outputs) == {"fail_until", "give"}
    with pytest.raises(ConfigError, match="mode 'sequential' is of runs in this process"):
        client.start(wf, mode="sequential")
    with pytest.raises(ConfigError, match="priority is a whole number"):
        client.start(wf, priority=-1)
    for key in ("", 7, b"once"):
        with pytest.raises(ConfigError, match="key is"):
            client.start(wf, key=key)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is a Workflow, not 7"):
        client.start(7)  # type: ignore[arg-type]


def test_a_started_run_keeps_its_timeout_without_its_client(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    daemons.start_worker(cpu=1, io=1)
    with Client(daemons.address) as other:
        run_id = other.start(holding(tmp_path, 1, grace=0.2), timeout=0.5).id
    found = client.attach(run_id)
    assert found.wait(20)
    assert (found.status, set(found.states.values())) == ("TIMED_OUT", {"CANCELLED"})
    with pytest.raises(RunTimeoutError, match="timeout"):
        found.check()


def test_a_failed_run_raises_for_those_who_attach(daemons: Daemons, client: Client) -> None:
    daemons.start_worker()
    with Workflow() as wf:
        step(steps.fail)("for all to see")
    run_id = client.start(wf).id
    with Client(client.address) as other:
        found = other.attach(run_id)
        assert found.wait(20)
        with pytest.raises(StepFailedError, match="for all to see") as caught:
            found.check()
        assert type(caught.value.__cause__) is ValueError


def test_a_run_is_cancelled_by_its_id(daemons: Daemons, client: Client, tmp_path: Path) -> None:
    daemons.start_worker(cpu=1, io=1)
    found = client.start(holding(tmp_path, 3, grace=0.2))
    wait_until_begun(tmp_path, 1, daemons)
    with Client(client.address) as other:
        other.cancel(found.id, "by another")
        assert found.wait(20)
        with pytest.raises(RunCancelledError, match="by another"):
            found.check()
        other.cancel(found.id)  # it has ended: nothing to do
        for ask in (other.cancel, other.attach):
            with pytest.raises(UnknownRunError, match="feedface"):
                ask("feedface")
    with Workflow() as wf:
        step(steps.double, hint="light_io")(1)
    assert client.run(wf).value == 2


def test_a_client_that_goes_ends_neither_the_daemons_nor_others(
    daemons: Daemons, client: Client, tmp_path: Path
) -> None:
    daemons.start_worker(cpu=1, io=2)
    found = client.start(holding(tmp_path, 1))
    with Client(client.address) as other:
        other.submit(steps.hold, str(tmp_path), "held9")
        wait_until_begun(tmp_path, 2, daemons)
    (tmp_path / "go").touch()
    assert found.value == [0]


def test_run_takes_an_address(daemons: Daemons, client: Client) -> None:
    daemons.start_worker()
    with Workflow() as wf:
        step(steps.double)(21)
    found = run(wf, on=client.address)
    assert found.value == 42


@pytest.mark.slow
def test_a_coordinator_that_is_killed_is_an_error(daemons: Daemons, client: Client) -> None:
    with Workflow() as wf:
        step(steps.double)(21)
    found = client.start(wf)
    daemons.coordinator.signal(signal.SIGKILL)
    with pytest.raises(ClusterError, match=client.address):
        found.wait(30)
