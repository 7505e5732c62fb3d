"""Hints: what they mean, how they are joined, what is refused at once."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pfw import ConfigError, Hint, Step, step
from pfw.demand import Demand, Offer, demand_of, shortage
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO
from pfw.stepclass import from_instance


def plain(x: int) -> int:
    return x


async def later(x: int) -> int:
    return x


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (None, (LANE_CPU, 0, 1, (), ())),
        ("light_io", (LANE_IO, 0, 1, (), ())),
        ("heavy_io", (LANE_IO, 1, 1, (("heavy_io", 1),), ())),
        (Hint.cpu(3), (LANE_CPU, 1, 3, (), ())),
        (Hint.cpu(1), (LANE_CPU, 1, 1, (), ())),
        ("heavy_cpu" + Hint.cpu(2), (LANE_CPU, 1, 2, (), ())),
        (Hint.gpu(2), (LANE_CPU, 1, 1, (("gpu", 2),), ())),
        ("light_io" + Hint.memory("2kB"), (LANE_IO, 1, 1, (("memory", 2000),), ())),
        (Hint.resource("licence"), (LANE_CPU, 0, 1, (("licence", 1),), ())),
        (Hint.limit("api", 5) + "light_io", (LANE_IO, 0, 1, (), (("api", 5),))),
        (
            "heavy_io" + Hint.resource("b", 2) + Hint.resource("a") + Hint.limit("z", 1) + Hint.limit("y", 2),
            (LANE_IO, 1, 1, (("a", 1), ("b", 2), ("heavy_io", 1)), (("y", 2), ("z", 1))),
        ),
    ],
)
def test_a_hint_says_what_a_step_takes(hint: Any, expected: tuple[Any, ...]) -> None:
    spec = step(plain, hint=hint).spec
    assert (spec.lane, spec.heavy, spec.slots, spec.needs, spec.limits) == expected


def test_an_async_step_may_have_limits_and_resources() -> None:
    spec = step(later, hint=Hint.limit("api", 5) + Hint.resource("licence")).spec
    assert (spec.lane, spec.slots, spec.needs, spec.limits) == (LANE_ASYNC, 1, (("licence", 1),), (("api", 5),))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Hint.cpu(0), "Hint.cpu is a whole number from 1 to 10,000, not 0"),
        (lambda: Hint.cpu(True), "not True"),
        (lambda: Hint.cpu(2.0), "not 2.0"),  # type: ignore[arg-type]
        (lambda: Hint.gpu(-1), "not -1"),
        (lambda: Hint.resource("licence", float("nan")), "not nan"),  # type: ignore[arg-type]
        (lambda: Hint.resource("gpu", 1), "'gpu' is no name for a resource"),
        (lambda: Hint.resource("", 1), "without / and ="),
        (lambda: Hint.resource(3), "is a str, not 3"),  # type: ignore[arg-type]
        (lambda: Hint.limit("a/b", 1), "without / and ="),
        (lambda: Hint.limit("api", "5"), "not '5'"),  # type: ignore[arg-type]
        (lambda: "light_io" + Hint("heavy_io"), "'light_io' or 'heavy_io', not both"),
        (lambda: "ligth_io" + Hint.limit("a", 1), 'did you mean "light_io"'),
        (lambda: Hint.cpu(2) + Hint.cpu(3), "both say how many CPU slots"),
        (lambda: Hint.limit("api", 2) + Hint.limit("api", 3), "the limit 'api' is asked for twice, 2 and 3"),
        (lambda: Hint.resource("a", 2) + Hint.resource("a", 3), "the resource 'a' is asked for twice"),
        (lambda: step(plain, hint="light_io" + Hint.cpu(2)), "Hint.cpu is for steps that compute"),
        (lambda: step(later, hint=Hint.cpu(2)), "Hint.cpu is for steps that compute"),
        (lambda: step(later, hint=Hint.gpu(1)), "no gpu of its own"),
        (lambda: step(later, hint=Hint.memory("1GB")), "no memory of its own"),
        (lambda: step(later, hint="light_io" + Hint.limit("a", 1)), "`async def`"),
        (lambda: step(plain, hint="async_io" + Hint.limit("a", 1)), "not `async def`"),
    ],
)
def test_what_cannot_be_is_refused_at_once(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        make()


def test_a_hint_is_joined_with_nothing_else() -> None:
    with pytest.raises(TypeError):
        Hint.cpu(2) + 3  # type: ignore[operator]
    with pytest.raises(TypeError):
        3 + Hint.cpu(2)  # type: ignore[operator]


def test_a_repr_is_how_it_is_written_and_a_hint_survives_pickling() -> None:
    hint = "light_io" + Hint.gpu(2) + Hint.resource("licence", 3) + Hint.limit("api", 5)
    assert repr(hint) == "'light_io' + Hint.gpu(2) + Hint.resource('licence', 3) + Hint.limit('api', 5)"
    assert eval(repr(hint)) == hint
    assert pickle.loads(pickle.dumps(hint)) == hint
    assert pickle.loads(pickle.dumps(step(plain, hint=hint))).hint == hint


def test_the_class_form_has_hints_too() -> None:
    class Ask(Step):
        def hint(self) -> Hint:
            return "light_io" + Hint.limit("api", 2)

        def execute(self, ctx: Any) -> int:
            return 1

    assert from_instance(Ask())[0].spec.limits == (("api", 2),)


def test_only_what_takes_more_than_a_slot_is_a_demand() -> None:
    assert demand_of(step(plain).spec) is None
    assert demand_of(step(plain, hint="heavy_cpu").spec) is None
    assert demand_of(step(plain).spec, (("/1", 2),)) == Demand(LANE_CPU, 0, 1, (), (("/1", 2),))
    assert demand_of(step(plain, hint=Hint.cpu(2)).spec) == Demand(LANE_CPU, 1, 2, (), ())


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Hint.cpu(4) + Hint.gpu(1), "it needs 4 CPU slots, 1 'gpu', and no worker has all of that"),
        (Hint.cpu(5), "it needs 5 CPU slots of one worker, and the most that a worker has is 4"),
        (Hint.gpu(3), "it needs 3 'gpu' of one worker, and the most that a worker has is 2"),
        (Hint.resource("x"), "it needs 1 'x' of one worker, and the most that a worker has is 0"),
        (Hint.memory("2GB"), "it needs 2,000.0 MB of memory of one worker, and the most that a worker has is 0.0 MB"),
        (Hint.cpu(4), ""),
        (Hint.gpu(2), ""),
        (Hint.limit("api", 1), ""),
    ],
)
def test_what_no_worker_can_give_is_named(hint: Hint, text: str) -> None:
    demand = demand_of(step(plain, hint=hint).spec)
    assert demand is not None
    offers = [Offer((4, 1, 1), {"gpu": 0}), Offer((2, 1, 1), {"gpu": 2})]
    assert shortage(demand, offers) == text
    assert shortage(demand, []).endswith("and there is no worker")
