"""What the life of a run does for many steps at once, as it would for one."""

from __future__ import annotations

import pytest

from helpers.lives import assign, start, succeed
from helpers.samples import graph_of
from pfw.columns import PackedFacts
from pfw.lifecycle import PACKED_FROM, ReadyQueue
from pfw_coordinator.ledger import SMALL_BYTES
from pfw_coordinator.placement import sizes_of


@pytest.mark.parametrize("count", [1, 2, PACKED_FROM - 1, PACKED_FROM, 50])
def test_steps_that_succeed_together_are_told_of_as_one_by_one(count: int) -> None:
    lives = [start(graph_of([()] * count), keep=range(0, count, 2)) for _ in range(2)]
    steps = list(range(count))
    for life in lives:
        assign(life)
    for step in steps:
        lives[0].on_succeeded(step, 3, step / 2, 0.25, b"out %d" % step, 40.0, (step, 7))
    columns = [step / 2 for step in steps], [0.25] * count, [b"out %d" % step for step in steps], steps, [7] * count
    lives[1].on_all_succeeded(3, (steps, *columns), 40.0)
    assert list(lives[0].facts) == list(lives[1].facts)
    assert lives[0].states == lives[1].states
    assert [isinstance(part, PackedFacts) for part in lives[1].facts.parts].count(True) == (count >= PACKED_FROM)


@pytest.mark.parametrize(
    ("inputs", "after", "has_lines"),
    [
        ([(), (0,)], [(), ()], True),
        ([(), (0,), (0,)], [(), (), ()], False),
        ([(), ()], [(), (0,)], False),
        ([(), (), (0,)], [(), (0,), (1,)], True),
        ([(), (), (0, 1), (0, 1)], [()] * 4, False),
    ],
)
def test_whether_some_step_may_be_all_that_depends_on_another(
    inputs: list[tuple[int, ...]], after: list[tuple[int, ...]], *, has_lines: bool
) -> None:
    life = start(graph_of(inputs, after=after))
    assert life.has_lines == has_lines
    life.extend(graph_of([(0,)]), 0.0)
    assert life.has_lines, "what comes later is not looked at"


def test_inputs_and_order_are_waited_for_alike() -> None:
    life = start(graph_of([(), (), (0,), (0, 1)], after=[(), (0,), (1,), ()]))
    ready = [assign(life)]
    for step in (0, 1):
        succeed(life, step)
        ready.append(assign(life))
    assert ready == [[0], [1], [2, 3]]
    assert life.outputs[:2] == [b"out 0", b"out 1"], "one who only waits gets no output"
    succeed(life, 3)
    assert life.outputs[:2] == [b"out 0", None]


def test_what_steps_are_sent_is_known_exactly_once_any_may_be_large() -> None:
    life = start(graph_of([(), (), (0,), (0, 1)]))
    assign(life)
    succeed(life, 0)
    assert sizes_of(life, [2, 3]) == [len(b"call 3") + 2 * len(b"out 0")] * 2, "what the largest can have"
    large = bytes(SMALL_BYTES)
    life.on_succeeded(1, 1, 1.0, 0.5, large, 1.0)
    exact = [len(b"call 2out 0"), len(b"call 3out 0") + len(large)]
    assert sizes_of(life, [2, 3]) == life.all_input_bytes([2, 3]) == exact
    assert [life.input_bytes(step) for step in (2, 3)] == exact


def test_a_large_output_of_many_steps_is_noticed() -> None:
    life = start(graph_of([(), (), (0, 1), (1,)]))
    assign(life)
    outputs = [b"small", bytes(SMALL_BYTES)]
    life.on_all_succeeded(1, ([0, 1], [0.5] * 2, [0.5] * 2, outputs, [0] * 2, [0] * 2), 1.0)
    assert sizes_of(life, [2, 3]) == [len(b"call 2small") + SMALL_BYTES, len(b"call 3") + SMALL_BYTES]


def test_a_large_call_that_comes_later_is_noticed() -> None:
    life = start(graph_of([()]), is_open=True)
    assert sizes_of(life, [0]) == [len(b"call 0")]
    for step, count in ((1, 1), (2, 2)):
        large = bytes(step * SMALL_BYTES + 1)
        life.extend_like(0, [f"s{step + n}" for n in range(count)], [large] * count, [()] * count, 1.0)
        assert sizes_of(life, [0, step]) == [len(b"call 0"), len(large)]


def test_all_steps_of_a_rank_may_be_taken_at_once() -> None:
    queue = ReadyQueue()
    queue.extend([1, 2, 3], 0)
    queue.push(4, 1)
    assert (queue.take(1), queue.take(3), queue.count) == ([4], [1, 2, 3], 0)
    queue.push(5, 0)
    assert queue.take() == [5]
