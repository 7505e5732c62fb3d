"""Sequential mode, where it is seen from the outside: it runs in this process."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any

import pytest

from pfw import CancellationToken, Retry, StepFailedError, Workflow, current, run, sequential, step


def test_the_cause_of_a_failure_has_live_frames() -> None:
    def fail() -> None:
        local = "here"
        raise ValueError(local)

    @step
    async def fail_async() -> None:
        fail()

    for function in (step(fail, retry=Retry(1, backoff=0.0)), fail_async):
        wf = Workflow()
        wf.add(function)
        found = run(wf, mode="sequential", check=False)
        with pytest.raises(StepFailedError) as caught:
            found.check()
        for error in (caught.value, *found.errors.values()):
            assert type(error.__cause__) is ValueError
            frame, _ = list(traceback.walk_tb(error.__cause__.__traceback__))[-1]
            assert (frame.f_code.co_name, frame.f_locals["local"]) == ("fail", "here")


def test_frames_of_a_step_that_succeeds_in_the_end_are_not_kept() -> None:
    @step(retry=Retry(1, backoff=0.0))
    def fail_once() -> int:
        if current().attempt == 1:
            raise ValueError("not yet")
        return 7

    wf = Workflow()
    wf.add(fail_once)
    found = run(wf, mode="sequential")
    assert (found.value, found._record.raised) == (7, {})


@pytest.mark.parametrize("given", [7, None, abs, step(abs)])
@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_what_is_no_workflow_is_refused_at_once(given: Any, mode: str) -> None:
    with pytest.raises(TypeError, match=f"is a Workflow, not .*{'called first' if callable(given) else given}"):
        run(given, mode=mode)


# -- short steps, which are committed together -------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What steps append to `sys.seen`: a module that they do not bring with them, as they do what is around them."""
    monkeypatch.setattr(sys, "seen", found := list[Any](), raising=False)
    return found


def test_short_steps_are_committed_together_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "SHORT_S", 60.0)
    monkeypatch.setattr(sequential, "TOGETHER_S", 60.0)
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


def test_a_step_that_takes_longer_than_those_before_it_is_no_short_one_any_more() -> None:
    def burn(seconds: float) -> float:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return seconds

    with Workflow() as wf:
        step(burn).map([0.0, 0.0, 0.01, 0.01])
    found = run(wf, mode="sequential")
    ends = {event.step_id: event for event in found.events() if event.type == "Completed"}
    assert ends["burn[2]"].timestamp < ends["burn[3]"].timestamp - 0.009
