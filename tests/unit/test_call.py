"""How arguments travel: sources out, placeholders in, inputs in their places."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest

from pfw.call import Input, Inputs, bind, fill, place_all, scan
from pfw.errors import GraphError


class Source:
    """What stands for a value that is not there yet."""


class Pair(NamedTuple):
    left: Any
    right: Any


A, B = Source(), Source()


def scanned(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
    return tuple(scan(args, kwargs, (Source,)))  # type: ignore[return-value]


@pytest.mark.parametrize("placeholder", [Input(3), Input(3, ("key", 0)), Inputs(2, 5)])
def test_placeholders_survive_pickling_and_are_small(placeholder: Any) -> None:
    copy = pickle.loads(pickle.dumps(placeholder, 5))
    assert copy == placeholder
    assert hash(copy) == hash(placeholder)
    assert repr(copy) == repr(placeholder)
    assert len(pickle.dumps(placeholder, 5)) < 60


def test_placeholders_differ_by_their_fields() -> None:
    assert Input(1) != Input(2)
    assert Input(1) != Input(1, ("x",))
    assert Inputs(0, 1) != Inputs(0, 2)
    assert Input(0) != 0


def test_a_call_without_sources_stays_as_it_is() -> None:
    items = [1, [2, {"x": (3,)}]]
    args, kwargs, sources = scanned(items, flag=True)
    assert args[0] is items
    assert kwargs == {"flag": True}
    assert sources == ()


def test_a_call_of_nothing_but_distinct_sources_has_the_short_form() -> None:
    assert scanned() == (None, None, ())
    assert scanned(A) == (None, None, (A,))
    assert scanned(B, A) == (None, None, (B, A))


def test_other_calls_have_placeholders() -> None:
    assert scanned(A, A) == ((Input(0), Input(0)), None, (A,))
    assert scanned(A, 1) == ((Input(0), 1), None, (A,))
    assert scanned([A]) == (([Input(0)],), None, (A,))
    assert scanned(x=B) == ((), {"x": Input(0)}, (B,))
    assert scanned(A, x=[B, A]) == ((Input(0),), {"x": [Input(1), Input(0)]}, (A, B))


def test_containers_of_exactly_the_known_types_are_searched() -> None:
    args, _, sources = scanned([1, (A, {"k": Pair(B, 2)})])
    assert args == ([1, (Input(0), {"k": Pair(Input(1), 2)})],)
    assert type(args[0][1][1]["k"]) is Pair
    assert sources == (A, B)
    for unsearched in ({A}, OrderedDict(x=A), {A: 1}, frozenset([A])):
        assert scanned(unsearched) == ((unsearched,), None, ())


def test_the_callers_containers_are_not_changed() -> None:
    items: list[Any] = [A, 1]
    scanned(items)
    assert items == [A, 1]


def test_a_container_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(GraphError, match="contains itself"):
        scanned(endless)


def test_place_all_is_compact_where_positions_follow_one_another() -> None:
    assert place_all([]) == []
    assert place_all([4, 5, 6]) == Inputs(4, 3)
    assert place_all([4, 6]) == [Input(4), Input(6)]


def test_fill_replaces_placeholders_and_applies_paths() -> None:
    inputs = ["a", {"rows": [10, 20]}, "c"]
    assert fill(Input(1, ("rows", 1)), inputs) == 20
    assert fill([Input(0), {"k": (Pair(Input(2), 5),)}], inputs) == ["a", {"k": (Pair("c", 5),)}]
    assert fill(Inputs(1, 2), inputs) == inputs[1:]
    assert fill(Inputs(0, 0), []) == []


def test_fill_leaves_containers_without_placeholders_alone() -> None:
    untouched = {"x": [1, object()]}
    assert fill(untouched, ["a"]) is untouched
    assert fill((untouched, Input(0)), ["a"])[0] is untouched


def test_placeholders_work_on_whatever_gives_one_output_and_slices_of_them() -> None:
    assert fill([Input(7), Inputs(7, 2)], range(100, 110)) == [107, [107, 108]]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2), {}), ((A,), {}), ((A, B), {}), ((A, A, [B, 3]), {}), ((1,), {"x": A, "y": {"z": [B]}})],
)
def test_bind_undoes_scan(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found = scan(args, kwargs, (Source,))
    names = {A: "a", B: "b"}
    placed, placed_kwargs = pickle.loads(pickle.dumps((found.args, found.kwargs)))
    bound_args, bound_kwargs = bind(placed, placed_kwargs, [names[source] for source in found.sources])

    def expected(obj: Any) -> Any:
        if isinstance(obj, list | tuple):
            return type(obj)(map(expected, obj))
        if isinstance(obj, dict):
            return {key: expected(value) for key, value in obj.items()}
        return names.get(obj, obj)

    assert tuple(bound_args) == expected(args)
    assert bound_kwargs == expected(kwargs)


def test_without_inputs_nothing_is_filled() -> None:
    assert bind((Input(0),), None, []) == ((Input(0),), {})
