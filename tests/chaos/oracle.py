"""What must be true at the end of every world, whoever was hurt."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter

from chaos import work
from chaos.plan import RunPlan
from chaos.world import World
from helpers.command import check_nothing_is_left
from helpers.waiting import wait_until
from pfw import CoordinatorLostError, Run, StepCrashedError, StepFailedError, StepTimeoutError, WorkerLostError
from pfw.folders import make_folder, remove_folder

#: An event of each of these ends a step.
ENDS = {"Completed", "Failed", "TimedOut", "Cancelled", "Skipped"}


def check_runs(world: World) -> None:
    """Every run has the value, or the errors, that it must have, and every step one end."""
    ids = world.told_elsewhere("ids")
    assert all(told == ids[0] for told in ids), "the same key gave another run"
    for plan in world.plan.runs:
        where = f"run {plan.number}, which {plan.kind}"
        try:
            if plan.kind == "calls":
                values = list(plan.values().values())
                assert [future.result() for future in world.calls[plan.number]] == values
                continue
            own = world.runs.get(plan.number)
            seen = world.observer.attach(own.id if own is not None else ids[0][str(plan.number)])
            seen.wait(20.0)
            _check_run(world, plan, seen)
            assert own is None or (own.states, dict(own.outputs)) == (seen.states, dict(seen.outputs))
        except Exception as error:
            raise AssertionError(f"{where}: {error!r}\n{world.tell_all()}") from error


def _check_run(world: World, plan: RunPlan, run: Run) -> None:
    {
        "succeeds": _check_states, "fails": _check_states, "once": _check_once, "is cancelled": _check_cancelled,
    }[plan.kind](world, plan, run)  # fmt: skip
    outputs, values = dict(run.outputs), plan.values()
    for name, output in outputs.items():
        assert "/" in name or output["value"] == values[name], f"{name} returned {output['value']}"
    # Who took an output as input got the one that was accepted: the very same attempt's.
    for number, each in enumerate(plan.steps):
        if f"s{number}" in outputs and each.does != "grows":
            given = [outputs[f"s{needed}"]["nonce"] for needed in each.needs]
            assert outputs[f"s{number}"]["seen"] == given, f"s{number} was given what was not accepted"
    ends = Counter(event.step_id for event in run.events() if event.type in ENDS)
    assert ends == Counter(list(run.states)), f"not each step ended once: {ends}"
    assert [event.type for event in run.events()].count("RunFinished") == 1


def _check_states(world: World, plan: RunPlan, run: Run) -> None:
    wanted = plan.states()
    found = {name: state for name, state in run.states.items() if "/" not in name}
    assert found == wanted, {
        name: (state, run.errors.get(name)) for name, state in found.items() if state != wanted[name]
    }
    assert set(run.states.values()) <= {*wanted.values(), "SUCCEEDED"}
    assert run.status == ("SUCCEEDED" if set(wanted.values()) == {"SUCCEEDED"} else "FAILED")
    for name, error in run.errors.items():
        assert isinstance(error, StepTimeoutError if wanted[name] == "TIMED_OUT" else StepFailedError), error
        assert wanted[name] != "FAILED" or isinstance(error.__cause__, ValueError), error


def _check_once(world: World, plan: RunPlan, run: Run) -> None:
    """Nothing was begun twice, and what was lost says so."""
    begun = Counter(line.step for line in world.journal if line.run == plan.number and line.what == work.BEGUN)
    assert not [name for name, times in begun.items() if times > 1], begun
    for name, error in run.errors.items():
        assert isinstance(error, (WorkerLostError, StepCrashedError)), error
        assert any(harm.is_loss or harm.is_crash for harm in world.plan.harms), f"{name}: {error}"
    lost = {f"s{number}" for number, each in enumerate(plan.steps) if f"s{number}" in run.errors}
    for number, each in enumerate(plan.steps):
        if any(f"s{needed}" in lost for needed in each.needs):
            lost.add(f"s{number}")
    ended = {name for name, state in run.states.items() if state != "SUCCEEDED"}
    assert ended == lost, f"{ended} did not succeed, {lost} should not have"


def _check_cancelled(world: World, plan: RunPlan, run: Run) -> None:
    """Nothing of it starts when its cancel is over, but where a worker was lost nobody knows."""
    receipt, at = world.cancels[plan.number].result()
    assert receipt.is_complete, receipt
    assert run.status == "CANCELLED", run
    assert run.states["s0"] == "CANCELLED"
    lost = {worker.daemon.name for worker in world.workers if worker.is_lost}
    late = [
        line for line in world.journal
        if line.run == plan.number and line.what == work.BEGUN and line.at > at and line.worker not in lost
    ]  # fmt: skip
    assert not late, f"began after the receipt, at {at}: {late}"
    ended = {name for name, state in run.states.items() if state in ("FAILED", "TIMED_OUT")}
    assert not ended, ended


def check_lost(world: World) -> None:
    """Of what the killed coordinator had everybody hears that it is lost, and nothing of it begins any more."""
    for number, run in world.runs.items():
        try:
            assert run.wait(20.0), run
            assert run.status == "CANCELLED" or dict(run.states) == world.plan.runs[number].states()
        except CoordinatorLostError:
            assert run.status in ("RUNNING", "STOPPING")
    for plan in world.plan.runs:
        values = list(plan.values().values())
        for number, future in enumerate(world.calls.get(plan.number, ())):
            error = future.exception(20.0)
            assert isinstance(error, CoordinatorLostError) if error else future.result() == values[number]
    # Perhaps it had submitted nothing yet.
    assert world.elsewhere.wait() == 0 or "CoordinatorLostError" in world.elsewhere.tail(), world.tell_all()
    check_cluster(world)
    at = time.monotonic()
    check_cluster(world)
    world.read_journal()
    late = [line for line in world.journal if line.at > at]
    assert not late, f"began after all workers had found the new coordinator, at {at}: {late}"


def check_cluster(world: World) -> None:
    """All workers there are work, hold nothing, and have sent nothing odd."""
    slots = [worker.slots for worker in world.workers if not worker.is_over]
    wanted = {
        "workers": len(slots), "cpu": sum(cpu for cpu, _ in slots), "io": sum(io for _, io in slots), "held": 0,
        "oddities": 0,
    }  # fmt: skip

    def is_whole() -> bool:
        status, workers = world.observer.status(), world.observer.workers()
        return {name: status[name] for name in wanted} == wanted and {each["state"] for each in workers} == {"ready"}

    wait_until(is_whole, 30.0, what="the cluster is whole", detail=lambda: (world.observer.status(), world.tell_all()))
    more = world.observer.map(work.combine, range(20), [[1, 2]] * 20)
    assert world.observer.gather(more) == [work.combine(number, [1, 2]) for number in range(20)]


def check_ends(world: World) -> None:
    """The daemons end well, and leave no process, folder or file; what they log is no traceback."""
    for daemon in world.end():
        assert daemon.process.poll() == 0, world.tell_all()
    check_nothing_is_left(world.mark)
    assert not list(world.daemons.runtime_dir.rglob("*.json")), "the connection file"
    for left in world.temporary.iterdir():
        # Of a worker that was killed with its spawner the next start removes the folder.
        os.utime(left, (1, 1))
    _sweep(world)
    assert not list(world.temporary.iterdir()), f"{list(world.temporary.rglob('*'))}\n{world.tell_all()}"
    for daemon in world.daemons.all:
        if daemon.name == "client":
            continue
        text = daemon.log.read_text("utf-8", "replace")
        assert not re.search(r"Traceback|a bug in pfw", text), f"{daemon.name}\n{text}\n{world.tell_all()}"


def _sweep(world: World) -> None:
    """What a start does, in the folder for temporary files of this world."""
    before, tempfile.tempdir = tempfile.tempdir, str(world.temporary)
    try:
        made, lock = make_folder("worker")
        remove_folder(made)
        os.close(lock)
    finally:
        tempfile.tempdir = before
