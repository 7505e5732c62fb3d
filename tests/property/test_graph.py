"""The graph's algorithms and `compile`, compared with networkx on random graphs."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfw.errors import CycleError
from pfw.graph import critical_path, find_cycle, generations, topological_order
from pfw.stepfunction import step
from pfw.workflow import Workflow

Dependencies = dict[int, list[int]]


@st.composite
def any_graphs(draw: st.DrawFn) -> Dependencies:
    """Graphs that may have cycles, self-dependencies and repeated dependencies."""
    size = draw(st.integers(0, 12))
    some = st.lists(st.integers(0, size - 1), max_size=3) if size else st.nothing()
    return {key: draw(some) for key in draw(st.permutations(range(size)))}


@st.composite
def acyclic_graphs(draw: st.DrawFn) -> Dependencies:
    """Graphs without cycles, whose keys are inserted in any order."""
    size = draw(st.integers(0, 14))
    depth = draw(st.permutations(range(size)))
    below = {key: [other for other in range(size) if depth[other] < depth[key]] for key in range(size)}
    return {
        key: draw(st.lists(st.sampled_from(below[key]), max_size=4, unique=True)) if below[key] else []
        for key in draw(st.permutations(range(size)))
    }


def as_networkx(dependencies: Dependencies) -> nx.DiGraph[int]:
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(dependencies)
    graph.add_edges_from((needed, key) for key, all_needed in dependencies.items() for needed in all_needed)
    return graph


@given(any_graphs())
def test_order_exists_exactly_when_networkx_finds_no_cycle(dependencies: Dependencies) -> None:
    oracle = as_networkx(dependencies)
    if nx.is_directed_acyclic_graph(oracle):
        order = topological_order(dependencies)
        place = {key: number for number, key in enumerate(order)}
        assert sorted(order) == sorted(dependencies)
        assert all(place[before] < place[after] for before, after in oracle.edges)
        assert find_cycle(dependencies) == []
    else:
        with pytest.raises(CycleError) as caught:
            topological_order(dependencies)
        cycle = find_cycle(dependencies)
        assert len(set(cycle)) == len(cycle) > 0
        assert all(oracle.has_edge(*edge) for edge in zip(cycle, cycle[1:] + cycle[:1], strict=True))
        assert caught.value.cycle == tuple(map(str, cycle))


@given(acyclic_graphs())
def test_generations_are_those_of_networkx(dependencies: Dependencies) -> None:
    expected = [sorted(wave) for wave in nx.topological_generations(as_networkx(dependencies))]
    assert [sorted(wave) for wave in generations(dependencies)] == expected


@given(acyclic_graphs())
def test_kahns_order_goes_wave_by_wave(dependencies: Dependencies) -> None:
    assert topological_order(dependencies) == [key for wave in generations(dependencies) for key in wave]


@given(acyclic_graphs(), st.data())
def test_critical_path_is_as_long_as_that_of_networkx(dependencies: Dependencies, data: st.DataObject) -> None:
    weights = {key: data.draw(st.integers(0, 9)) for key in dependencies}
    path, length = critical_path(dependencies, weights.__getitem__)
    oracle = as_networkx(dependencies)
    oracle.add_node("end")  # type: ignore[arg-type]
    for key in dependencies:
        oracle.add_edge(key, "end")  # type: ignore[arg-type]
    for before, _, attributes in oracle.edges(data=True):
        attributes["weight"] = weights[before]
    assert length == nx.dag_longest_path_length(oracle)
    assert length == sum(weights[key] for key in path)
    assert all(oracle.has_edge(*edge) for edge in pairwise(path))


@step
def join(*inputs: object) -> object:
    return inputs


def workflow_of(dependencies: Dependencies) -> Workflow:
    """Every other dependency carries data where the steps were added in time for that; the others are order only."""
    workflow = Workflow()
    for key, needed in dependencies.items():
        ids = [str(other) for other in needed]
        data = [workflow[name] for name in ids[::2] if name in workflow]
        workflow.add(join.options(id=str(key), after=ids), *data)
    return workflow


@given(acyclic_graphs().filter(bool))
def test_compile_keeps_the_graph_and_is_topological(dependencies: Dependencies) -> None:
    workflow = workflow_of(dependencies)
    compiled = workflow.compile()
    graph = compiled.graph
    assert sorted(graph.ids) == sorted(map(str, dependencies))
    position = {key: place for place, key in enumerate(dependencies)}
    is_ordered = all(position[other] < position[key] for key, needed in dependencies.items() for other in needed)
    assert graph.ids == (list(map(str, dependencies)) if is_ordered else workflow.order())
    assert compiled.index == {name: step for step, name in enumerate(graph.ids)}
    for number, name in enumerate(graph.ids):
        inputs, after = graph.inputs[number], graph.after[number]
        assert all(needed < number for needed in inputs + after)
        assert len(set(inputs + after)) == len(inputs + after)
        assert {graph.ids[needed] for needed in inputs + after} == set(map(str, dependencies[int(name)]))
    oracle = as_networkx(dependencies)
    assert {graph.ids[leaf] for leaf in compiled.leaves} == {str(key) for key in oracle if not oracle.out_degree(key)}


@given(acyclic_graphs().filter(bool))
def test_waves_of_a_workflow_are_those_of_networkx(dependencies: Dependencies) -> None:
    expected = [sorted(map(str, wave)) for wave in nx.topological_generations(as_networkx(dependencies))]
    assert [sorted(wave) for wave in workflow_of(dependencies).waves()] == expected


@pytest.mark.parametrize("size", [100_000])
def test_long_graphs_need_no_recursion(size: int) -> None:
    chain = {0: [], **{key: [key - 1] for key in range(1, size)}}
    assert topological_order(chain) == list(range(size))
    assert len(generations(chain)) == size
    assert critical_path(chain, lambda _: 1.0) == (list(range(size)), float(size))
    ring = {**chain, 0: [size - 1]}
    with pytest.raises(CycleError, match=r"0 -> 1 -> .* more \.\.\. .* -> 0") as caught:
        topological_order(ring)
    assert len(caught.value.cycle) == size
    assert len(str(caught.value)) < 2_000
