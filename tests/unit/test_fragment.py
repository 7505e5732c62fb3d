"""What a slot makes of a workflow that a step returned."""

from __future__ import annotations

from typing import Any

import pytest

from pfw import GraphError, Workflow, codec, execution, fragment, outcome, step
from pfw.codec import LoadedFunction
from pfw.context import Entry
from pfw.expansion import Tail
from pfw.failure import FAIL_ERROR, FAIL_UNPICKLABLE, Failure
from pfw.graph import Graph
from pfw.graphs import unpack_fragment
from pfw.inherited import STEP_DEFAULTS, Inherited
from pfw.retry import Retry
from pfw.standins import make_loop

NOTHING = Inherited({}, STEP_DEFAULTS)


@step
def give(value: Any) -> Any:
    return value


@step
def pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left, right


def made(workflow: Workflow, step_id: str = "outer") -> Graph:
    return unpack_fragment(fragment.make_fragment(workflow, step_id, NOTHING)).graph


def test_the_only_leaf_is_the_tail_and_knows_it() -> None:
    with Workflow() as wf:
        pair(give(1), give(2))
    graph = made(wf)
    assert graph.ids == ["outer/give", "outer/give#2", "outer/pair"]
    names = [codec.load_call(call)[0] for call in graph.calls]
    assert [type(name) for name in names] == [str, str, Tail]
    assert made(wf, names[-1]).ids == ["outer/#2/give", "outer/#2/give#2", "outer/#2/pair"]


def test_what_is_made_of_several_outputs_gets_a_tail_that_waits_for_all() -> None:
    with Workflow() as wf:
        first = give.options(id="returns")(1)
        second = give((2, 3))
        give.options(id="aside")(4)
        wf.returns({"list": [first, second[1]], "same": first})
    graph = made(wf)
    assert graph.ids[-1] == "outer/returns#2"
    assert (graph.inputs[-1], graph.after[-1]) == ((0, 1), (2,))


def test_a_node_that_is_no_leaf_is_given_by_a_tail_too() -> None:
    with Workflow() as wf:
        first = give(1)
        give(first)
        wf.returns(first)
    graph = made(wf)
    assert (graph.ids[-1], graph.inputs[-1], graph.after[-1]) == ("outer/returns", (0,), (1,))


@pytest.mark.parametrize("limit", ["FRAGMENT_BYTES", "FRAGMENT_STEPS"])
def test_a_workflow_that_is_too_large_says_so(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workflow("large") as wf:
        wf.returns(give.map(range(20)))
    monkeypatch.setattr(fragment, limit, 10)
    with pytest.raises(GraphError, match=r'"large".*has 20 steps in .* bytes; it can have'):
        made(wf)


@pytest.mark.parametrize(("workflow", "code"), [("empty", FAIL_ERROR), ("unpicklable", FAIL_UNPICKLABLE)])
def test_what_is_no_fragment_fails_the_step_for_good(workflow: str, code: int) -> None:
    def returns() -> Workflow:
        wf = Workflow()
        if workflow == "unpicklable":
            wf.add(give, (x for x in range(3)))
        return wf

    loaded = LoadedFunction(returns, Retry().is_retryable, False)
    found, payload = execution.execute(loaded, codec.dump(("outer", (), None)), (), Entry("run", 1))
    assert found == outcome.ERROR
    assert Failure.unpack(payload).code == code


def test_all_rounds_of_a_loop_have_the_same_functions() -> None:
    loop = codec.load(codec.dump(make_loop(give, lambda x: x > 9, 50, {}).fn))
    rounds = []
    for number in range(4):
        graph = made(loop(1, number), "loop/until")
        rounds.append(graph.functions)
        _, (_, following), _ = codec.load_call(graph.calls[-1])
        assert following == number + 1
        loop = codec.load_function(graph.functions[-1]).fn
    assert rounds[0] == rounds[1] == rounds[3]
