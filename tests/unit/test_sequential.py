"""Sequential mode, where it is seen from the outside: it runs in this process."""

from __future__ import annotations

import time
import traceback
from typing import Any

import pytest

from pfw import Retry, StepFailedError, Workflow, current, run, step


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
