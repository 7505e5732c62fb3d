"""Putting workflows together: nodes, maps, names, guards, checks, and what `compile` gives."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from pfw import codec
from pfw.call import Input, Inputs, bind, fill
from pfw.errors import (
    ConfigError,
    CycleError,
    DuplicateStepError,
    EmptyWorkflowError,
    GraphError,
    UnknownDependencyError,
    UnpicklableError,
)
from pfw.graph import LANE_ASYNC, LANE_IO
from pfw.node import Deferred, ItemNode, MapNode, Node
from pfw.stepclass import Step
from pfw.stepfunction import Retry, open_workflow, step
from pfw.workflow import Compiled, Workflow


@step
def one() -> int:
    return 1


@step
def add(x: Any, y: Any = 0) -> Any:
    return x + y


@step
def total(values: list[int]) -> int:
    return sum(values)


@step
def pair(x: Any) -> tuple[Any, Any]:
    return x, -x


@step
def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


class Point(NamedTuple):
    x: Any
    y: Any


def outputs_of(compiled: Compiled) -> list[Any]:
    """Runs a compiled workflow in the simplest way, as the slots would: step by step in the order of the graph."""
    graph = compiled.graph
    functions = [codec.load_function(pickled).fn for pickled in graph.functions]
    outputs: list[Any] = []
    for number, call in enumerate(graph.calls):
        step_id, args, kwargs = codec.load_call(call)
        assert step_id == graph.ids[number]
        args, kwargs = bind(args, kwargs, [outputs[needed] for needed in graph.inputs[number]])
        outputs.append(functions[graph.function_of[number]](*args, **kwargs))
    return outputs


def value_of(workflow: Workflow) -> Any:
    compiled = workflow.compile()
    return fill(compiled.value, outputs_of(compiled))


# ---------------------------------------------------------------- adding


def test_a_call_in_the_block_adds_a_node() -> None:
    with Workflow("etl") as workflow:
        node = add(one(), 2)
    assert isinstance(node, Node)
    assert (node.id, node.workflow, repr(node)) == ("add", workflow, 'Node "add"')
    assert [node.id for node in workflow.nodes] == ["one", "add"]
    assert workflow["add"] is node
    assert "add" in workflow
    assert value_of(workflow) == 3


def test_add_is_the_explicit_twin() -> None:
    workflow = Workflow()
    node = workflow.add(add, workflow.add(one), y=workflow.add(lambda: 5))
    assert workflow.order() == ["one", "lambda", "add"]
    assert node.id == "add"
    assert value_of(workflow) == 6


def test_blocks_nest_and_end() -> None:
    with Workflow() as outer:
        one()
        with Workflow() as inner:
            one()
        one()
    assert (outer.order(), inner.order()) == (["one", "one#2"], ["one"])
    assert open_workflow.get() is None
    assert one() == 1


def test_the_block_ends_with_an_exception_too() -> None:
    with pytest.raises(ZeroDivisionError), Workflow():
        raise ZeroDivisionError
    assert open_workflow.get() is None


def test_the_block_is_not_seen_by_other_threads() -> None:
    results: list[Any] = []
    with Workflow():
        thread = threading.Thread(target=lambda: results.append(one()))
        thread.start()
        thread.join()
    assert results == [1]


def test_nodes_in_containers_are_filled() -> None:
    with Workflow() as workflow:
        n = one()
        echo([n, 2], (n,), Point(n, [n]), k={"a": n, "b": {"c": [n]}}, plain=[3])
    assert value_of(workflow) == (([1, 2], (1,), Point(1, [1])), {"k": {"a": 1, "b": {"c": [1]}}, "plain": [3]})


def test_items_are_taken_where_they_are_used() -> None:
    with Workflow() as workflow:
        both = pair(one())
        first, second = both.unpack(2)
        for count in (-1, 1.5, True, "2", None):
            with pytest.raises(ConfigError, match="the number of items is a whole number"):
                both.unpack(count)  # type: ignore[arg-type]
        nested = echo({"rows": [10, 20]})
        workflow.returns(echo(first, second, both[1], nested[0][0]["rows"][1]))
    assert isinstance(first, ItemNode)
    assert isinstance(first, Node)
    assert (first.id, first.path, repr(first)) == ("pair", (0,), 'Node "pair"[0]')
    assert value_of(workflow) == ((1, -1, -1, 20), {})
    assert workflow.compile().graph.ids == ["one", "pair", "echo", "echo#2"]
    assert workflow.compile().graph.inputs[-1] == (1, 2)


def test_after_orders_without_data() -> None:
    with Workflow() as workflow:
        last = one.options(id="last")()
        first, other = one.options(id="first")(), one.options(id="other")()
        assert last.after(first, "other", first) is last
        one.options(id="end", after=[last, first[0]])()
    graph = workflow.compile().graph
    assert graph.ids == ["first", "other", "last", "end"]
    assert graph.after == [(), (), (0, 1), (2, 0)]
    assert graph.inputs == [()] * 4
    assert other.id == "other"


def test_a_repeated_dependency_is_one() -> None:
    with Workflow() as workflow:
        n = one()
        add(n, n).after(n, n)
    graph = workflow.compile().graph
    assert (graph.inputs[1], graph.after[1]) == ((0,), ())
    assert value_of(workflow) == 2


# ---------------------------------------------------------------- maps


def test_map_adds_one_use_per_item() -> None:
    with Workflow() as workflow:
        sums = add.map([1, 2, 3], [10, 20, 30, 40])
        total(sums)
    assert isinstance(sums, MapNode)
    assert (sums.id, len(sums), [node.id for node in sums]) == ("add", 3, ["add[0]", "add[1]", "add[2]"])
    assert workflow["add"].id == "add"
    assert value_of(workflow) == 66
    compiled = workflow.compile()
    assert compiled.maps == {"add": range(3)}
    assert codec.load_call(compiled.graph.calls[3]) == ("total", (Inputs(0, 3),), None)


def test_starmap_and_constants() -> None:
    with Workflow() as workflow:
        constant = one()
        rows = add.starmap([(1,), [2]], y=constant)
        workflow.returns({"rows": rows, "last": rows[-1], "some": rows[:1]})
    assert value_of(workflow) == {"rows": [2, 3], "last": 3, "some": [2]}


def test_map_over_nodes_is_element_wise() -> None:
    with Workflow() as workflow:
        first = add.map(range(3))
        second = first.map(add, y=10)
        third = add.map(second, first)
        workflow.returns(third)
    graph = workflow.compile().graph
    assert all(len(inputs) <= 2 for inputs in graph.inputs)
    assert (second.id, third.id) == ("add#2", "add#3")
    assert value_of(workflow) == [10, 12, 14]


def test_an_empty_map_is_an_empty_list() -> None:
    with Workflow() as workflow:
        nothing = add.map([])
        total(nothing)
    assert len(nothing) == 0
    assert value_of(workflow) == 0
    assert workflow.compile().maps == {"add": range(0)}


def test_a_map_is_ordered_as_a_whole() -> None:
    with Workflow() as workflow:
        first = one()
        many = add.map([1, 2]).after(first)
        one.options(id="end", after=many)()
        one.options(id="end2", after="add")()
    graph = workflow.compile().graph
    assert graph.after == [(), (0,), (0,), (1, 2), (1, 2)]


def test_a_map_that_overlaps_other_arguments_is_still_distinct_inputs() -> None:
    with Workflow() as workflow:
        many = add.map([1, 2, 3])
        workflow.returns(echo(many[1], many, many))
    assert workflow.compile().graph.inputs[-1] == (1, 0, 2)
    assert value_of(workflow) == ((2, [1, 2, 3], [1, 2, 3]), {})


def test_map_needs_something_known() -> None:
    with Workflow():
        with pytest.raises(TypeError):
            add.map()
        with pytest.raises(GraphError, match="unpack"):
            add.map(one())


# ---------------------------------------------------------------- names


def test_names_are_numbered() -> None:
    with Workflow() as workflow:
        add.options(id="one#2")(1)
        one()
        one()
        one()
        add.map([1])
        add.map([1])
        add(1)
    assert workflow.order() == ["one#2", "one", "one#3", "one#4", "add[0]", "add#2[0]", "add#3"]


@pytest.mark.parametrize("_number", range(5))
def test_threads_that_ask_for_names_at_once_find_each_once(_number: int) -> None:
    workflow, found = Workflow(), list[list[str]]()
    for _ in range(2_000):
        workflow.add(one)
        workflow.add(pair, 1)
    barrier = threading.Barrier(4)

    def compile_it() -> None:
        barrier.wait()
        found.append(workflow.compile().graph.ids)

    threads = [threading.Thread(target=compile_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    uses = [("one", "pair"), *((f"one#{n}", f"pair#{n}") for n in range(2, 2_001))]
    assert found == [[name for both in uses for name in both]] * 4


@pytest.mark.parametrize("name", ["", "../x", "a\0b", "λ🙂", "x" * 256, "a[0]", "a -> b", '"'])
def test_odd_ids(name: str) -> None:
    workflow = Workflow()
    if "/" in name:
        with pytest.raises(ConfigError):
            workflow.add(one.options(id=name))
    else:
        assert workflow.add(one.options(id=name)).id == name
        assert workflow.order() == [name]
        assert workflow.to_mermaid().isprintable() or "\n" in workflow.to_mermaid()


def test_members_of_maps_are_found_by_their_ids() -> None:
    with Workflow() as workflow:
        one()
        maps = [add.map([1, 2, 3], [4, 5, 6]), add.options(id="add[0]x").map([1]), add.map([7] * 12)]
    assert [node.id for node in workflow.nodes][4:6] == ["add[0]x[0]", "add#2[0]"]
    assert all(workflow[node.id] is node for node in workflow.nodes)
    assert [workflow[nodes.id].id for nodes in maps] == ["add", "add[0]x", "add#2"]
    for name in (
        "add[3]",
        "add[03]",
        "add[-1]",
        "add[]",
        "add[1",
        "add#2[12]",
        "add#2[\u0661]",
        "[0]",
        "add[" + "9" * 5000 + "]",
    ):
        assert name not in workflow
        with pytest.raises(UnknownDependencyError):
            workflow[name]
    assert 5 not in workflow


def test_an_explicit_id_that_is_taken() -> None:
    workflow = Workflow()
    workflow.add(one.options(id="x"))
    with workflow:
        add.options(id="m").map([1, 2])
        with pytest.raises(DuplicateStepError, match='"x"'):
            one.options(id="x")()
        for taken in ("m", "m[1]"):
            with pytest.raises(DuplicateStepError):
                one.options(id=taken)()
        one.options(id="n[1]")()
        with pytest.raises(DuplicateStepError, match=r"n\[1\]"):
            add.options(id="n").map([1, 2])
    assert workflow.order() == ["x", "m[0]", "m[1]", "n[1]"]


def test_an_unknown_id_gives_the_closest() -> None:
    workflow = Workflow()
    workflow.add(one.options(id="extract"))
    with pytest.raises(KeyError, match='did you mean "extract"'):
        workflow["extrct"]


# ---------------------------------------------------------------- guards


@dataclass
class Box:
    item: Any


GUARDED: list[Callable[[Any], object]] = [
    bool,
    len,
    list,
    lambda node: 1 in node,
    lambda node: f"{node}",
    lambda node: node == 1,
    lambda node: node != 1,
    lambda node: node < 1,
    lambda node: node >= 1,
    pickle.dumps,
    copy.deepcopy,
    lambda node: sum(node),
]


@pytest.mark.parametrize("use", GUARDED)
def test_a_node_is_no_value(use: Callable[[Any], object]) -> None:
    with Workflow():
        node = one()
    for form in (node, node[0]):
        with pytest.raises(GraphError, match=r'Node "one".*; '):
            use(form)


def test_a_map_is_no_value_but_its_members_are_known() -> None:
    with Workflow():
        many = add.map([1, 2])
    for use in (bool, pickle.dumps, lambda form: form == 1):
        with pytest.raises(GraphError, match="MapNode"):
            use(many)
    assert [len(many), len(list(many))] == [2, 2]


def test_a_node_of_another_workflow_is_refused() -> None:
    with Workflow("first"):
        foreign = one()
    workflow = Workflow("second")
    uses: list[Callable[[], object]] = [
        lambda: workflow.add(add, foreign),
        lambda: workflow.add(add, [foreign], 1),
        lambda: workflow.add(one).after(foreign),
        lambda: workflow.add(one.options(after=foreign)),
        lambda: workflow.returns(foreign),
    ]
    for use in uses:
        with pytest.raises(GraphError, match='belongs to workflow "first"'):
            use()
    with pytest.raises(GraphError, match='belongs to workflow "first", not to this one'):
        Workflow("first").add(one).after(foreign)


def test_a_node_where_it_cannot_be_filled_is_named_before_anything_runs() -> None:
    workflow = Workflow()
    node = workflow.add(one)
    for hidden in ({node}, Box(node), {node: 1}):
        workflow = Workflow()
        workflow.add(add, 1, hidden)
        with pytest.raises(GraphError, match='step "add": argument "y": Node "one"'):
            workflow.compile()


def test_a_node_in_a_closure_is_named_before_anything_runs() -> None:
    workflow = Workflow()
    node = workflow.add(one)
    workflow.add(lambda: node)
    with pytest.raises(GraphError, match='step "lambda": its function: Node "one"'):
        workflow.compile()


def test_a_node_as_a_key_is_refused() -> None:
    with Workflow(), pytest.raises(GraphError, match="cannot be a key"):
        one()[one()]


# ---------------------------------------------------------------- checks


def test_an_empty_workflow() -> None:
    with pytest.raises(EmptyWorkflowError):
        Workflow().validate()


def test_a_cycle_is_named() -> None:
    with Workflow() as workflow:
        a, b = one.options(id="a", after="c")(), one.options(id="b")()
        b.after(a)
        one.options(id="c", after=b)()
        one.options(id="d", after="c")()
    with pytest.raises(CycleError, match="a -> b -> c -> a") as caught:
        workflow.compile()
    assert caught.value.cycle == ("a", "b", "c")


def test_a_step_after_itself() -> None:
    with Workflow() as workflow:
        one.options(after="one")()
    with pytest.raises(CycleError, match="one -> one"):
        workflow.order()


def test_an_unknown_dependency_names_both() -> None:
    with Workflow() as workflow:
        one.options(id="extract")()
        one.options(id="load", after="extrat")()
    with pytest.raises(UnknownDependencyError, match=r'"load" depends on "extrat".*did you mean "extract"'):
        workflow.validate()


@pytest.mark.parametrize("value", [threading.Lock(), (item for item in [1])])
def test_an_unpicklable_argument_is_named(value: Any) -> None:
    workflow = Workflow()
    workflow.add(one)
    workflow.add(add, 1, y=[value])
    with pytest.raises(UnpicklableError, match='step "add": argument y'):
        workflow.compile()


def test_an_unpicklable_function_is_named() -> None:
    lock = threading.Lock()
    workflow = Workflow()
    workflow.add(lambda: lock)
    with pytest.raises(UnpicklableError, match='step "lambda": its function'):
        workflow.compile()


# ---------------------------------------------------------------- looking at it


def diamond() -> Workflow:
    with Workflow() as workflow:
        a = one.options(id="a")()
        b, c = add.options(id="b")(a), add.options(id="c")(a)
        add.options(id="d")(b, c)
    return workflow


def test_order_waves_and_critical_path() -> None:
    workflow = diamond()
    assert workflow.order() == ["a", "b", "c", "d"]
    assert workflow.waves() == [["a"], ["b", "c"], ["d"]]
    assert workflow.critical_path() == ["a", "b", "d"]
    assert workflow.critical_path({"a": 1, "b": 1, "c": 5, "d": 1}) == ["a", "c", "d"]
    assert workflow.critical_path(lambda step_id: 3.0 if step_id == "c" else 1.0) == ["a", "c", "d"]


def test_mermaid() -> None:
    workflow = diamond()
    workflow.add(one.options(id='say "hi"', after="d"))
    lines = workflow.to_mermaid().splitlines()
    assert lines[0] == "flowchart TD"
    assert '    n4["say #34;hi#34;"]' in lines
    assert "    n0 --> n1" in lines
    assert "    n3 -.-> n4" in lines


# ---------------------------------------------------------------- compile


def test_compile_is_kept_until_the_workflow_changes() -> None:
    workflow = diamond()
    compiled = workflow.compile()
    assert workflow.compile() is compiled
    changes: list[Callable[[], object]] = [
        lambda: workflow.add(one),
        lambda: workflow["b"].after("c"),
        lambda: workflow.returns(workflow["b"]),
    ]
    for change in changes:
        before = workflow.compile()
        change()
        assert workflow.compile() is not before


def test_functions_and_specs_are_shared() -> None:
    with Workflow() as workflow:
        add.map([1, 2])
        add.options(id="x", retry=1)(1)
        add.options(retry=Retry(retries=1, on=(OSError, MemoryError)))(1)
        add.options(hint="light_io")(1)
    graph = workflow.compile().graph
    assert graph.function_of == [0, 0, 0, 1, 0]
    assert graph.spec_of == [0, 0, 1, 1, 2]
    assert graph.specs[2].lane == LANE_IO
    assert len(graph.functions) == 2


def test_the_short_form_of_a_call() -> None:
    assert [codec.load_call(call) for call in diamond().compile().graph.calls] == [
        ("a", None, None),
        ("b", None, None),
        ("c", None, None),
        ("d", None, None),
    ]


def test_value_is_the_only_leaf() -> None:
    compiled = diamond().compile()
    assert (compiled.value, compiled.leaves) == (Input(3), (3,))


def test_a_map_counts_as_one_leaf() -> None:
    with Workflow() as workflow:
        add.map([1, 2])
    assert value_of(workflow) == [1, 2]
    assert workflow.compile().leaves == range(2)


def test_a_single_step_is_the_tail() -> None:
    with Workflow() as workflow:
        one()
        assert workflow.compile().has_tail
        add(1, 2)
        assert not workflow.compile().has_tail


def test_several_leaves_have_no_value() -> None:
    with Workflow() as workflow:
        add.map([1, 2])
        one()
    compiled = workflow.compile()
    assert (compiled.value, compiled.leaves) == (None, range(3))


def test_returns_names_steps_by_their_place_in_the_graph() -> None:
    with Workflow() as workflow:
        late = one.options(id="late", after="early")()
        early = pair.options(id="early")(4)
        workflow.returns({"late": late, "early": Point(early[1], [early])})
    assert workflow.compile().value == {"late": Input(1), "early": Point(Input(0, (1,)), [Input(0)])}
    with pytest.raises(GraphError, match="holds some"):
        workflow.returns(5)


# ---------------------------------------------------------------- class steps


class Extract(Step):
    id = "extract"

    def execute(self, ctx: Any) -> list[int]:
        return [1, 2, 3]


class Load(Step):
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @property
    def id(self) -> str:
        return "load"

    def dependencies(self) -> list[str]:
        return ["extract", "count", "extract"]

    def hint(self) -> str:
        return "light_io"

    def retry(self) -> int:
        return 2

    def execute(self, ctx: Any) -> int:
        return sum(ctx["extract"]) * self.factor + ctx["count"]  # type: ignore[no-any-return]


class Later(Step):
    async def execute(self, ctx: Any) -> int:
        return 1


def test_class_steps_get_outputs_by_id_in_any_order() -> None:
    workflow = Workflow()
    load = workflow.add(Load(10))
    extract = workflow.add(Extract())
    workflow.add(step(len, name="count"), extract)
    assert workflow.order() == ["extract", "count", "load"]
    graph = workflow.compile().graph
    assert graph.inputs == [(), (0,), (0, 1)]
    assert (graph.specs[graph.spec_of[2]].lane, graph.specs[graph.spec_of[2]].retries) == (LANE_IO, 2)
    assert value_of(workflow) == 63
    assert isinstance(load, Deferred)


def test_async_class_steps() -> None:
    workflow = Workflow()
    assert workflow.add(Later()).id == "Later"
    assert workflow.compile().graph.specs[0].lane == LANE_ASYNC


def test_wrong_class_steps() -> None:
    class Nothing(Step):
        id = "nothing"

    class Wrong(Extract):
        dependencies = "extract"

    workflow = Workflow()
    uses: list[Callable[[], object]] = [
        lambda: workflow.add(Nothing()),
        lambda: workflow.add(Wrong()),
        lambda: workflow.add(Extract),
        lambda: workflow.add(Extract(), 1),
    ]
    for use in uses:
        with pytest.raises(TypeError):
            use()
    workflow.add(Load(1))
    with pytest.raises(UnknownDependencyError, match='"load" depends on "extract"'):
        workflow.validate()
