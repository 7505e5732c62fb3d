"""Steps that do without some of their inputs: when they start, and what they get."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.lives import assign, fail, start, succeed
from helpers.samples import graph_of, spec
from pfw import codec
from pfw.absence import Absence, is_absence, unpack_absence
from pfw.call import Input, Inputs
from pfw.errors import PfwError, RunCancelledError, StepFailedError
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    ENDED_ITSELF,
    FAILED,
    READY,
    RUN_CANCELLED,
    RUN_FAILED,
    SKIPPED,
    SUCCEEDED,
    WAITING,
)
from pfw.failure import FAIL_ERROR, Failure
from pfw.graph import IF_ALL, IF_ALWAYS, IF_ANY, Graph
from pfw.tolerance import Failed, bind_some

WHY = Failure(FAIL_ERROR, "ValueError", "no good").pack()
FAILED_INPUT = Absence("bad", FAILED, WHY).pack()


def reduce_of(run_if: int, *, mappers: int = 2) -> Graph:
    """`mappers` steps, and one that gets the outputs of all of them."""
    specs = [spec()] * mappers + [spec()._replace(run_if=run_if)]
    return graph_of([()] * mappers + [tuple(range(mappers))], specs=specs)


# -- when it starts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_if", [IF_ANY, IF_ALWAYS])
def test_a_tolerant_step_waits_for_all_and_starts_with_what_there_is(run_if: int) -> None:
    life = start(reduce_of(run_if), on_failure="continue", keep=(2,))
    assign(life)
    fail(life, 0)
    assert life.states[2] == WAITING
    succeed(life, 1)
    assert life.states[2] == READY
    absence, output = life.outputs[0], life.outputs[1]
    assert unpack_absence(absence or b"")[:2] == ("s0", FAILED)
    assert output is not None
    assign(life)
    succeed(life, 2)
    assert (life.status, life.states[2]) == (RUN_FAILED, SUCCEEDED)
    assert life.outputs == [None] * 3


@pytest.mark.parametrize(("run_if", "state"), [(IF_ALL, SKIPPED), (IF_ANY, SKIPPED), (IF_ALWAYS, READY)])
def test_without_any_success_only_always_starts(run_if: int, state: int) -> None:
    life = start(reduce_of(run_if), on_failure="continue")
    assign(life)
    fail(life, 0)
    fail(life, 1)
    assert life.states[2] == state


def test_a_tolerant_step_starts_in_a_run_that_stops_and_may_be_tried_again() -> None:
    cleanup = spec(retries=1)._replace(run_if=IF_ALWAYS)
    life = start(graph_of([(), (), (0, 1), (2,)], specs=[spec(), spec(), cleanup, spec()]))
    assign(life)
    fail(life, 0)
    # What depends on the tolerant step does not depend on the failed one: it is not started any more.
    assert list(life.states) == [FAILED, ASSIGNED, WAITING, CANCELLED]
    succeed(life, 1)
    assign(life)
    assert list(life.states) == [FAILED, SUCCEEDED, ASSIGNED, CANCELLED]
    life.on_not_started(2, 1, 5.0)
    assert life.states[2] == READY
    assign(life)
    fail(life, 2, is_retryable=True)
    life.on_time(life.wake_at() or 0.0)
    assign(life)
    succeed(life, 2)
    assert (life.status, life.states[2]) == (RUN_FAILED, SUCCEEDED)


def test_what_has_not_started_when_a_run_stops_is_cancelled_and_not_skipped() -> None:
    life = start(graph_of([(), (), (0, 1), (1, 2)], specs=[spec(), spec(), spec()._replace(run_if=IF_ANY), spec()]))
    (first,) = life.ready[0].take(1)
    life.on_assigned(first)
    fail(life, first)
    # The third one needs a success, and none comes any more; that is found out after the stop.
    assert list(life.states) == [FAILED, CANCELLED, SKIPPED, CANCELLED]


def test_ready_and_backed_off_tolerant_steps_survive_a_stop() -> None:
    tolerant = spec(retries=1)._replace(run_if=IF_ALWAYS)
    life = start(graph_of([(), (), (), ()], specs=[spec(), tolerant, tolerant, spec()]))
    life.ready[0].take(2)
    life.on_assigned(0)
    life.on_assigned(1)
    fail(life, 1, is_retryable=True)
    fail(life, 0)
    assert list(life.states) == [FAILED, BACKOFF, READY, CANCELLED]
    assert assign(life) == [2]
    life.on_time(life.wake_at() or 0.0)
    assert assign(life) == [1]


@pytest.mark.parametrize("how", ["cancel", "abort"])
def test_no_tolerant_step_starts_in_a_run_that_is_cancelled(how: str) -> None:
    life = start(reduce_of(IF_ALWAYS), on_failure="abort")
    assign(life)
    if how == "cancel":
        life.cancel("enough", 5.0)
        life.on_stopped(0, 1, ENDED_ITSELF, 6.0)
    else:
        fail(life, 0)
    assert life.states[2] == CANCELLED
    life.on_stopped(1, 1, ENDED_ITSELF, 7.0)
    assert life.status == (RUN_CANCELLED if how == "cancel" else RUN_FAILED)


def test_a_long_chain_of_tolerant_steps_is_no_recursion() -> None:
    count = 5_000
    specs = [spec()] + [spec()._replace(run_if=IF_ANY)] * count
    life = start(graph_of([(), *((step,) for step in range(count))], specs=specs), on_failure="continue")
    assign(life)
    fail(life, 0)
    assert set(life.states[1:]) == {SKIPPED}


# -- what it gets ------------------------------------------------------------------------------------------------------


def some(run_if: int, args: Any, *inputs: Any, kwargs: Any = None) -> tuple[Any, Any]:
    pickled = [item if isinstance(item, bytes) and is_absence(item) else codec.dump(item) for item in inputs]
    return bind_some(run_if, args, kwargs, pickled)


def test_lists_lose_what_is_missing_and_other_places_are_none() -> None:
    args = (Inputs(0, 3), Input(1, ("key",)), {"a": [Input(1), Input(0)], "b": (Input(1), 5)})
    found, named = some(IF_ANY, args, 10, FAILED_INPUT, 30, kwargs={"x": Input(1), "y": Input(2)})
    assert found == [[10, 30], None, {"a": [10], "b": (None, 5)}]
    assert named == {"x": None, "y": 30}


def test_inputs_that_are_the_arguments_become_none() -> None:
    assert some(IF_ANY, None, FAILED_INPUT, [1])[0] == [None, [1]]
    assert some(IF_ANY, None, [None], {"a": [2]})[0] == [[None], {"a": [2]}]


def test_always_gets_an_object_that_says_what_failed() -> None:
    (values, item), _ = some(IF_ALWAYS, (Inputs(0, 2), Input(0, ("key", 2))), FAILED_INPUT, 7)
    assert isinstance(values[0], Failed)
    assert (values[0].step_id, values[1]) == ("bad", 7)
    assert isinstance(values[0].error, StepFailedError)
    assert "ValueError: no good" in str(values[0].error)
    assert item.step_id == "bad"
    copy = codec.load(codec.dump(values[0]))
    assert (copy.step_id, str(copy.error)) == ("bad", str(values[0].error))
    assert "Failed('bad'" in repr(values[0])


def test_what_was_not_carried_out_says_why() -> None:
    skipped, cancelled = Absence("s", SKIPPED, WHY).pack(), Absence("c", CANCELLED, b"").pack()
    found, _ = some(IF_ALWAYS, None, skipped, cancelled)
    assert type(found[0].error) is PfwError
    assert "SKIPPED: no good" in str(found[0].error)
    assert isinstance(found[1].error, RunCancelledError)


def test_no_pickle_looks_like_an_absence() -> None:
    for value in (None, 0, b"", [], "x", Failed("a", PfwError("b")), 1 << 70):
        assert not is_absence(codec.dump(value))
