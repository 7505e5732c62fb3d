"""Short steps of sequential mode, which run and are committed together."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from helpers import ROOT
from pfw import CancellationToken, Retry, Workflow, context, current, run, sequential, step


@pytest.fixture(autouse=True)
def all_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(sequential, "SHORT_S", 60.0)
    monkeypatch.setattr(sequential, "TOGETHER_S", 60.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What steps append to `sys.seen`: a module that they do not bring with them, as they do what is around them."""
    monkeypatch.setattr(sys, "seen", found := list[Any](), raising=False)
    return found


def test_short_steps_are_committed_together_and_in_order() -> None:
    with Workflow() as wf:
        numbers = step(abs).map(range(0, -500, -1))
        step(sum)(numbers)
    found = run(wf, mode="sequential")
    assert found.value == sum(range(500))
    ends = [event for event in found.events() if event.type == "Completed"]
    assert [event.step_id for event in ends] == [*(f"abs[{n}]" for n in range(500)), "sum"]
    first, *together = [event.timestamp for event in ends[:500]]
    assert first < together[0] < ends[500].timestamp
    assert len(set(together)) == 1


def test_a_failure_comes_after_those_before_it_and_nothing_after_it(seen: list[Any]) -> None:
    def reciprocal(number: int) -> float:
        sys.seen.append(number)
        return 1 / number

    with Workflow() as wf:
        step(reciprocal).map([5, 4, 3, 2, 1, 0, -1, -2])
    found = run(wf, mode="sequential", check=False)
    assert seen == [5, 4, 3, 2, 1, 0]
    states = [found.states[f"reciprocal[{n}]"] for n in range(8)]
    assert states == ["SUCCEEDED"] * 5 + ["FAILED"] + ["CANCELLED"] * 2
    assert [event.type for event in found.events()].index("Failed") > 5


def test_a_cancel_during_a_short_step_starts_no_other(seen: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    token = CancellationToken()
    monkeypatch.setattr(sys, "token", token, raising=False)

    def count(number: int) -> int:
        sys.seen.append(number)
        if number == 4:
            sys.token.cancel("enough")
        return number

    with Workflow() as wf:
        step(count).map(range(8))
    found = run(wf, mode="sequential", token=token, check=False)
    assert seen == [0, 1, 2, 3, 4]
    assert [found.states[f"count[{n}]"] for n in range(8)] == ["SUCCEEDED"] * 4 + ["CANCELLED"] * 4


def test_what_a_short_step_prints_is_its_own_and_comes_before_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    def shout(number: int) -> int:
        if number == 3:
            print("three")
        return number

    with Workflow() as wf:
        step(shout).map(range(6))
    found = run(wf, mode="sequential")
    assert [found.logs(f"shout[{n}]") for n in range(6)] == ["", "", "", "three\n", "", ""]
    assert capsys.readouterr().out == "three\n"


def test_what_was_done_before_is_told_before_a_running_step_says_how_far_it_is() -> None:
    told: list[tuple[str, str]] = []

    def work(number: int) -> int:
        if number == 5:
            current().progress(1, 2, "half")
        return number

    with Workflow() as wf:
        step(work).map(range(8))
    run(wf, mode="sequential", progress=lambda event: told.append((event.type, event.step_id)))
    told = [each for each in told if each[0] in ("Completed", "Progressed")]
    before = [("Completed", f"work[{n}]") for n in range(5)]
    assert told[:6] == [*before, ("Progressed", "work[5]")]


def test_a_step_that_becomes_ready_and_goes_first_does_so_among_short_ones(seen: list[Any]) -> None:
    def note(name: str, after: str = "") -> str:
        sys.seen.append(name)
        return name

    wf = Workflow()
    first = wf.add(note, "warm")
    nodes = [wf.add(note, f"plain {n}", first) for n in range(4)]
    wf.add(step(note, priority=5), "urgent", nodes[1])
    run(wf, mode="sequential")
    assert seen == ["warm", "plain 0", "plain 1", "urgent", "plain 2", "plain 3"]


def test_short_steps_have_contexts_and_tokens_of_their_own(seen: list[Any]) -> None:
    def look(number: int) -> int:
        sys.seen.append((current().step_id, current().token.cancelled))
        current().token.cancel()
        return number

    with Workflow() as wf:
        step(look).map(range(5))
    found = run(wf, mode="sequential")
    assert (seen, found.value) == ([(f"look[{n}]", False) for n in range(5)], list(range(5)))
    assert current().step_id == ""


def mixed_order() -> list[tuple[str, str]]:
    """The types and steps of the events of a workflow that has something of everything."""

    def work(number: int) -> int:
        if number % 7 == 3 and current().attempt == 1:
            raise ValueError("once")
        if number % 5 == 4:
            print("out")
        return number

    with Workflow() as wf:
        first = step(work, retry=Retry(1, backoff=0.0)).map(range(20))
        for node in first[::3] if isinstance(first, list) else [first[0], first[9]]:
            step(work, name="next")(node)
        step(sum)(first)
    events = run(wf, mode="sequential").events()
    return [(event.type, event.step_id or "") for event in events]


def test_the_order_is_that_of_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together = mixed_order()
    monkeypatch.setattr(sequential, "SHORT_S", 0.0)
    assert together == mixed_order()


def test_a_step_that_prints_has_its_own_cpu_time() -> None:
    def burn(number: int) -> int:
        if number == 9:
            print("hot")
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                pass
        return number

    with Workflow() as wf:
        step(burn).map(range(10))
    metrics = run(wf, mode="sequential").metrics.steps
    assert metrics["burn[9]"].cpu_time >= 0.09
    assert sum(metrics[f"burn[{n}]"].cpu_time for n in range(9)) < 0.09


def test_threads_that_steps_leave_may_say_how_far_they_are() -> None:
    def leave(number: int) -> int:
        ctx, last = current(), number == 199

        def tell() -> None:
            for turn in range(20):
                ctx.progress(turn, 20)

        thread = threading.Thread(target=tell)
        thread.start()
        if last:
            thread.join()
        return number

    with Workflow() as wf:
        step(leave).map(range(200))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        found = run(wf, mode="sequential")
    finally:
        sys.setswitchinterval(before)
    assert found.value == list(range(200))
    assert sum(event.type == "Completed" for event in found.events()) == 200


def test_an_exception_that_escapes_just_as_a_step_begins_leaves_none_running() -> None:
    beginnings = iter(["the function is unpickled", "it is called"])

    def escape(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code is context.enter.__code__ and event == "return" and next(beginnings) == "it is called":
            sys.settrace(None)
            raise TimeoutError
        return escape

    with Workflow() as wf:
        step(abs)(1)
    before = sys.gettrace()
    try:
        sys.settrace(escape)
        with pytest.raises(TimeoutError):
            run(wf, mode="sequential")
    finally:
        sys.settrace(before)
    assert current().step_id == ""
    assert run(wf, mode="sequential").status == "SUCCEEDED"


def test_an_exception_that_escapes_leaves_no_step_running() -> None:
    """As of a handler of the caller's own, which may raise at any line of ours."""

    def escape(number: int, frame: FrameType | None) -> None:
        if not is_running:
            return
        if frame is not None and frame.f_code.co_filename.startswith(str(ROOT / "common")):
            raise TimeoutError
        # Python swallows what is raised in a callback of its collector, which is not ours.
        signal.setitimer(signal.ITIMER_REAL, 0.0001)

    with Workflow() as wf:
        step(abs).map(range(2_000))
    wf.compile()  # what is raised where a function is pickled counts as an error of the function
    is_running = False
    before, escaped = signal.signal(signal.SIGALRM, escape), 0
    try:
        for turn in range(30):
            try:
                is_running = True
                signal.setitimer(signal.ITIMER_REAL, 0.002 + turn * 0.0003)
                run(wf, mode="sequential", check=False)
            except TimeoutError:
                escaped += 1
            finally:
                is_running = False
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            assert current().step_id == ""
    finally:
        signal.signal(signal.SIGALRM, before)
    assert escaped
    assert run(wf, mode="sequential").status == "SUCCEEDED"
