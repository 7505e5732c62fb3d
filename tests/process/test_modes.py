"""The three modes give the same: values, errors, states, events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import Hint, LocalCluster, Retry, Run, Step, Workflow, run, start, step

MODES = ("sequential", "parallel", "waves")

add, double, fail, give, total = map(step, (steps.add, steps.double, steps.fail, steps.give, steps.total))
double_async = step(steps.double_async)
wait_double = step(steps.double, hint="light_io")
held, mark = step(steps.hold, hint="light_io"), step(steps.mark)
hasty = step(steps.hang_until, timeout=1.0, retry=Retry(retries=1, backoff=0.001))
flaky = step(steps.fail_until, retry=Retry(retries=3, backoff=0.001))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def diamond() -> Workflow:
    with Workflow("diamond") as wf:
        top = give(1)
        add(double(top), double(top), plus=top)
    return wf


def map_and_reduce() -> Workflow:
    with Workflow("map and reduce") as wf:
        total(double.map(wait_double.map(range(20))))
    return wf


def lanes() -> Workflow:
    with Workflow("lanes") as wf:
        add(double(1), wait_double(2), double_async(3), double.options(hint="heavy_cpu")(4))
    return wf


def hints() -> Workflow:
    with Workflow("hints") as wf:
        wide, heavy = double.options(hint=Hint.cpu(2)), double.options(hint="heavy_io" + Hint.limit("api", 2))
        total([wide(1), heavy(2), *[double.options(hint=Hint.limit("api", 1))(n) for n in range(5)]])
    return wf


def structures() -> Workflow:
    with Workflow("structures") as wf:
        pair = give((1, {"deep": [2, 3]}))
        first, second = pair.unpack(2)
        nested = give({"list": [first, (second["deep"][1], "x")], "plain": b"\0", "empty": []})
        last = give(None).after(nested)
        wf.returns({"nested": nested, "pair": [pair, last], "item": second["deep"]})
    return wf


def retries() -> Workflow:
    with Workflow("retries") as wf:
        add(flaky(1, 10), flaky(3, 20), flaky(4, 30))
    return wf


def failing_in_the_middle() -> Workflow:
    with Workflow("failing") as wf:
        bad = fail("broken", give(1))
        add(double(bad), give.options(id="sibling")(5))
        give.options(id="apart")("fine")
    return wf


def giving_up() -> Workflow:
    with Workflow("giving up") as wf:
        add(flaky(99), give(1))
    return wf


def failing_chain() -> Workflow:
    with Workflow("failing chain") as wf:
        double(double(fail("at the start")))
    return wf


def unpicklable_results() -> Workflow:
    with Workflow("unpicklable") as wf:
        for fn in (steps.generate, steps.give_lock):
            double(step(fn)())
    return wf


def exits() -> Workflow:
    with Workflow("exits") as wf:
        step(steps.leave)(3)
        step(steps.interrupt)()
        step(steps.raise_odd).map(["two", "lock"])
    return wf


class Source(Step):
    id = "source"

    def execute(self, ctx: Any) -> int:
        return 20


class Sink(Step):
    id = "sink"
    dependencies = ("source",)

    def execute(self, ctx: Any) -> int:
        return int(ctx["source"]) + 1


def classes() -> Workflow:
    wf = Workflow("classes")
    wf.add(Sink())
    wf.add(Source())
    return wf


def nothing_but_order() -> Workflow:
    with Workflow("order") as wf:
        first = give(1)
        second = give(2).after(first)
        wf.returns([first, second])
    return wf


def hanging_once() -> Workflow:
    with Workflow("hanging once") as wf:
        add(hasty(2, 1), step(steps.nap_async, timeout=60)(0.01, 2))
    return wf


def timing_out() -> Workflow:
    with Workflow("timing out") as wf:
        double(hasty.options(timeout=0.1)(9))
        double(step(steps.nap_async, timeout=0.1)(600))
        double(step(steps.return_when_interrupted, timeout=0.1)())
        give("fine")
    return wf


SUCCEEDING = (diamond, map_and_reduce, lanes, hints, structures, retries, classes, nothing_but_order, hanging_once)
FAILING = (failing_in_the_middle, giving_up, failing_chain, unpicklable_results, exits, timing_out)


def describe(error: BaseException) -> tuple[object, ...]:
    # The text of a lost frame or a lock's address may differ; what it is about may not.
    cause = error.__cause__
    return type(error), getattr(error, "step", None), getattr(error, "attempts", None), type(cause), str(cause)


def picture(found: Run) -> dict[str, object]:
    """All that the modes have in common."""
    return {
        "status": found.status,
        "states": found.states,
        "outputs": dict(found.outputs),
        "errors": {name: describe(error) for name, error in found.errors.items()},
        "events": Counter((event.type, event.step_id, event.attempt) for event in found.events()),
        "attempts": {name: known.attempts for name, known in found.metrics.steps.items()},
        "counts": (found.metrics.successful_steps, found.metrics.failed_steps, found.metrics.retries),
    }


@pytest.mark.parametrize("make", SUCCEEDING)
def test_the_modes_agree_on_what_succeeds(cluster: LocalCluster, make: Callable[[], Workflow]) -> None:
    runs = [run(make(), mode=mode, on=cluster, keep="all") for mode in MODES]
    assert {found.status for found in runs} == {"SUCCEEDED"}
    assert runs[1].value == runs[0].value == runs[2].value
    first, *others = map(picture, runs)
    for other in others:
        assert other == first


@pytest.mark.parametrize("make", FAILING)
def test_the_modes_agree_on_what_fails(cluster: LocalCluster, make: Callable[[], Workflow]) -> None:
    runs = [run(make(), mode=mode, on=cluster, keep="all", on_failure="continue", check=False) for mode in MODES]
    assert {found.status for found in runs} == {"FAILED"}
    first, *others = map(picture, runs)
    for other in others:
        assert other == first


@pytest.mark.parametrize("mode", MODES)
def test_a_run_stops_at_its_first_failure(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        bad = fail("first")
        after = give(1).after(double(bad))
    found = run(wf, mode=mode, on=cluster, check=False)
    assert (found.status, found.states[bad.id], found.states[after.id]) == ("FAILED", "FAILED", "SKIPPED")


@pytest.mark.parametrize("mode", MODES)
def test_every_step_has_its_events_in_order(cluster: LocalCluster, mode: str) -> None:
    found = run(retries(), mode=mode, on=cluster)
    events = list(found.events())
    assert (events[0].type, events[-1].type) == ("RunStarted", "RunFinished")
    mine = [(event.type, event.attempt) for event in events if event.step_id == "fail_until#2"]
    assert mine[0][0] == "Queued"
    tries = [("Started", 1), ("Retrying", 1), ("Started", 2), ("Retrying", 2), ("Started", 3), ("Completed", 3)]
    assert mine[1:] == tries
    assert {event.run_id for event in events} == {found.id}
    assert all(event.worker for event in events if event.type == "Completed")


@pytest.mark.parametrize("mode", MODES)
def test_a_workflow_may_run_many_times(cluster: LocalCluster, mode: str) -> None:
    wf = map_and_reduce()
    runs = [run(wf, mode=mode, on=cluster) for _ in range(3)]
    assert [found.value for found in runs] == [760] * 3
    assert len({found.id for found in runs}) == 3


def test_parallel_mode_does_not_wait_for_the_wave_before(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        slow = held(str(tmp_path), "slow")
        # The second depth is what lets the first one end.
        mark(str(tmp_path), "go").after(give(1))
        wf.returns(slow)
    assert run(wf, on=cluster).status == "SUCCEEDED"


def test_waves_mode_waits_for_the_wave_before(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        held(str(tmp_path), "slow")
        second = mark(str(tmp_path), "second").after(give(1))
    found = start(wf, mode="waves", on=cluster)
    wait_until(lambda: found.states["give"] == "SUCCEEDED" and found.states["hold"] == "ASSIGNED", what="the others")
    assert found.states[second.id] == "WAITING"
    (tmp_path / "go").touch()
    assert found.wait(20)
    names = [(event.type, event.step_id) for event in found.events()]
    assert names.index(("Started", "mark")) > names.index(("Completed", "hold"))
