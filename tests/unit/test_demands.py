"""Steps that take more than one slot: where they go, what is kept free for them, and what can never be met."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from helpers.columns import Assigned
from helpers.coordinator_rig import CoordinatorRig, of_kind
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.errors import ProtocolError
from pfw.facts import FACT_FAILED, FACT_WAITING, FAILED, RUN_FAILED
from pfw.failure import FAIL_UNSCHEDULABLE, Failure
from pfw.graph import LANE_ASYNC, LANE_IO, Graph, Spec
from pfw.graphs import pack_graph, unpack_graph
from pfw_coordinator.core import Outbox
from pfw_coordinator.demands import RESERVE_AFTER_S
from pfw_coordinator.ledger import Run

WIDE = spec(heavy=1)._replace(slots=2)
LICENSED = spec()._replace(needs=(("licence", 1),))
LIMITED = spec()._replace(limits=(("api", 2),))


def demanding(**options: Any) -> CoordinatorRig:
    rig = CoordinatorRig(**options)
    rig.client()
    return rig


def join(rig: CoordinatorRig, name: str, cpu: int = 1, io: int = 1, **resources: int) -> None:
    rig.register(name, cpu, io, permits=8, resources=tuple(resources.items()))


def submit(rig: CoordinatorRig, one: Spec, count: int = 1, key: bytes = b"key", **fields: Any) -> Run:
    return rig.submit(graph_of([()] * count, specs=[one]), key=key, **fields)


def assigned(said: dict[str, list[Any]], name: str) -> list[int]:
    """The attempts that a worker was given in this turn."""
    return [row[0] for message in of_kind(said.get(name, []), Assigned) for row in message.rows]


def test_a_wide_step_goes_where_its_slots_are_free_and_says_how_many() -> None:
    rig = demanding()
    join(rig, "small", 1)
    join(rig, "big", 3)
    submit(rig, WIDE, 2)
    said = rig.turn()
    assert assigned(said, "small") == []
    (batch,) = of_kind(said["big"], Assigned)
    assert batch.needs == ((1, 2, 0, 0),)
    rig.outcome("big", 1)
    assert assigned(rig.turn(), "big") == [2]


def test_gpus_are_counted_here_and_chosen_there() -> None:
    rig = demanding()
    join(rig, "a", 4, gpu=3)
    submit(rig, spec(heavy=1)._replace(needs=(("gpu", 2),)), 2)
    (batch,) = of_kind(rig.turn()["a"], Assigned)
    assert batch.needs == ((1, 1, 2, 0),)
    assert rig.core.workers[b"a"].left == {"gpu": 1}


def test_never_more_is_reserved_than_is_offered() -> None:
    rig = demanding()
    join(rig, "a", 8, licence=2)
    join(rig, "b", 8, licence=1)
    join(rig, "c", 8)
    submit(rig, LICENSED, 5)
    said = rig.turn()
    assert [len(assigned(said, name)) for name in "abc"] == [2, 1, 0]
    rig.outcome("b", assigned(said, "b")[0], code=oc.CRASHED)
    assert len(assigned(rig.turn(), "b")) == 1
    assert rig.core.workers[b"b"].left == {"licence": 0}


def test_heavy_io_takes_a_permit_and_a_slot() -> None:
    rig = demanding()
    join(rig, "a", 1, 8, heavy_io=2)
    submit(rig, spec(LANE_IO, heavy=1)._replace(needs=(("heavy_io", 1),)), 5)
    assert len(assigned(rig.turn(), "a")) == 2
    submit(rig, spec(LANE_IO), 9, key=b"other")
    assert len(assigned(rig.turn(), "a")) == 6, "the other slots are for others"


@pytest.mark.parametrize("lane", [0, LANE_IO, LANE_ASYNC])
def test_a_limit_holds_over_the_whole_cluster_and_all_runs(lane: int) -> None:
    rig = demanding()
    for name in "abc":
        join(rig, name, 4, 4)
    one = spec(lane)._replace(limits=(("api", 4),))
    submit(rig, one, 5)
    submit(rig, one, 5, key=b"other")
    said = rig.turn()
    given = {name: assigned(said, name) for name in "abc"}
    assert sum(map(len, given.values())) == 4
    assert max(map(len, given.values())) <= 2, "they are spread"
    counts = Counter(worker.attempts[n].run.number for worker in rig.core.workers.values() for n in worker.attempts)
    assert counts == {1: 2, 2: 2}, "runs take turns"
    rig.core.on_peer_died(b"a", rig.now)
    said = rig.turn()
    assert sum(len(assigned(said, name)) for name in "bc") == len(given["a"]), "what the lost worker held is free"


def test_a_retry_goes_to_another_worker_if_one_has_room() -> None:
    rig = demanding()
    join(rig, "a", 2, licence=2)
    join(rig, "b", 2, licence=1)
    run = submit(rig, LICENSED._replace(retries=2, backoff=0.0))
    for name in "ab":
        (number,) = assigned(rig.turn(), name)
        rig.outcome(name, number, code=oc.RETRYABLE)
        rig.turn(rig.now + 0.1)
    assert len(assigned(rig.turn(), "a")) == 1
    assert run.life.attempts == [3]


def test_a_stricter_limit_of_the_same_name_waits() -> None:
    rig = demanding()
    join(rig, "a", 9)
    submit(rig, spec()._replace(limits=(("api", 3),)), 3)
    submit(rig, spec()._replace(limits=(("api", 1),)), 1, key=b"strict")
    said = rig.turn()
    assert len(assigned(said, "a")) == 3


def test_max_parallel_caps_one_run() -> None:
    rig = demanding()
    join(rig, "a", 8, 8)
    capped = submit(rig, spec(), 20, max_parallel=3)
    free = submit(rig, spec(), 2, key=b"other")
    said = rig.turn()
    held = Counter(attempt.run for attempt in rig.core.workers[b"a"].attempts.values())
    assert held == {capped: 3, free: 2}
    first = [n for n in assigned(said, "a") if rig.core.workers[b"a"].attempts[n].run is capped]
    rig.outcome("a", *first[:2], us=50)
    assert len(assigned(rig.turn(), "a")) == 2, "short steps too are not sent ahead beyond it"


def test_a_higher_priority_goes_first_whether_it_has_demands_or_not() -> None:
    rig = demanding()
    submit(rig, spec(), 4, key=b"plain", priority=1)
    submit(rig, LIMITED, 4, key=b"low")
    high = submit(rig, spec()._replace(limits=(("other", 1),)), 4, key=b"high", priority=2)
    join(rig, "a", 3)
    rig.turn()
    held = [attempt.run.key for attempt in rig.core.workers[b"a"].attempts.values()]
    assert held == [b"high", b"plain", b"plain"]
    assert high.life.demanding


def test_where_both_wait_they_take_turns() -> None:
    rig = demanding()
    join(rig, "a", 1)
    submit(rig, spec(heavy=1), 4, key=b"plain")
    submit(rig, LIMITED._replace(heavy=1), 4, key=b"limited")
    order = []
    while rig.turn() and (held := rig.core.workers[b"a"].attempts):
        ((number, attempt),) = held.items()
        order.append(attempt.run.key)
        rig.outcome("a", number)
    assert sorted(order) == [b"limited"] * 4 + [b"plain"] * 4
    assert order[:4] in ([b"limited", b"plain"] * 2, [b"plain", b"limited"] * 2)


# -- what has waited long ----------------------------------------------------------------------------------------------


def busy_with_a_wide_step_waiting() -> tuple[CoordinatorRig, Run]:
    """Two workers of two slots, always full of plain steps, and a step that needs two slots."""
    rig = demanding()
    join(rig, "a", 2)
    join(rig, "b", 2)
    submit(rig, spec(heavy=1), 99, key=b"plain")
    assert len(assigned(rig.turn(), "a")) == 2
    wide = submit(rig, WIDE, key=b"wide")
    rig.turn()
    return rig, wide


def finish_one(rig: CoordinatorRig, name: str) -> list[int]:
    """One plain step of the worker ends; what it is given then."""
    rig.outcome(name, next(iter(rig.core.workers[name.encode()].attempts)))
    return assigned(rig.turn(), name)


def test_a_step_that_waited_long_has_a_worker_kept_free_for_it() -> None:
    rig, wide = busy_with_a_wide_step_waiting()
    assert len(finish_one(rig, "a")) == 1, "nothing is kept free at once"
    assert rig.wake_at <= wide.life.queued_at[0] + RESERVE_AFTER_S
    rig.turn(wide.life.queued_at[0] + RESERVE_AFTER_S)
    (kept,) = [worker for worker in rig.core.workers.values() if worker.reservation]
    other = "b" if kept.name == "a" else "a"
    assert finish_one(rig, kept.name) == []
    assert len(finish_one(rig, other)) == 1, "the other one works on"
    (number,) = finish_one(rig, kept.name)
    assert kept.attempts[number].run is wide
    assert kept.reservation is None
    rig.outcome(kept.name, number)
    assert len(assigned(rig.turn(), kept.name)) == 2


def test_nothing_is_kept_free_for_what_is_gone() -> None:
    rig, wide = busy_with_a_wide_step_waiting()
    rig.turn(rig.now + RESERVE_AFTER_S)
    (kept,) = [worker for worker in rig.core.workers.values() if worker.reservation]
    rig.core.on_cancel_run(b"client", m.CancelRun(wide.number, "why"), rig.now)
    rig.turn()
    assert kept.reservation is None
    assert len(finish_one(rig, kept.name)) == 1


def test_another_worker_is_kept_free_if_the_first_is_lost() -> None:
    rig, wide = busy_with_a_wide_step_waiting()
    rig.turn(rig.now + RESERVE_AFTER_S)
    (kept,) = wide.reserved.values()
    rig.core.on_peer_died(kept.peer, rig.now)
    rig.turn()
    assert [worker.name for worker in wide.reserved.values()] == [name for name in "ab" if name != kept.name]


def test_nothing_is_kept_free_before_a_run_of_higher_priority() -> None:
    rig, wide = busy_with_a_wide_step_waiting()
    submit(rig, spec(heavy=1), 99, key=b"urgent", priority=1)
    rig.turn(rig.now + RESERVE_AFTER_S)
    assert not wide.reserved


def test_nothing_is_kept_free_for_a_step_that_waits_for_its_limit() -> None:
    rig = demanding()
    join(rig, "a", 2)
    run = submit(rig, LIMITED, 3)
    submit(rig, spec(), 1, key=b"plain")
    rig.turn()
    rig.turn(rig.now + 2 * RESERVE_AFTER_S)
    assert not run.reserved


# -- what can never be met ---------------------------------------------------------------------------------------------


def test_on_a_fixed_cluster_it_fails_at_once() -> None:
    rig = demanding(is_embedded=True)
    run = submit(rig, WIDE, 2, on_failure="continue")
    rig.turn()
    assert not run.life.failed, "no worker is there yet"
    join(rig, "a", 1)
    rig.turn()
    rig.turn()
    assert list(run.life.states) == [FAILED, FAILED]
    assert run.life.status == RUN_FAILED
    failure = Failure.unpack(next(fact.payload for fact in run.life.facts if fact.kind == FACT_FAILED))
    assert failure.code == FAIL_UNSCHEDULABLE
    assert failure.message == "it needs 2 CPU slots of one worker, and the most that a worker has is 1"


def test_the_failure_is_told_in_the_next_turn() -> None:
    rig = demanding(is_embedded=True)
    join(rig, "a", 1)
    submit(rig, WIDE)
    rig.turn()
    assert rig.wake_at == rig.now


def test_on_an_open_cluster_it_waits_and_says_why_once() -> None:
    rig = demanding()
    join(rig, "a", 1)
    run = submit(rig, WIDE, 2)
    for _ in range(3):
        rig.turn()
    reasons = [fact.payload.decode() for fact in run.life.facts if fact.kind == FACT_WAITING]
    assert reasons == ["it needs 2 CPU slots of one worker, and the most that a worker has is 1"]
    join(rig, "b", 1)
    rig.turn()
    assert len([fact for fact in run.life.facts if fact.kind == FACT_WAITING]) == 1, "the same is not said again"
    join(rig, "c", 2)
    assert len(assigned(rig.turn(), "c")) == 1


def test_a_step_that_becomes_ready_later_is_looked_at_too() -> None:
    rig = demanding()
    join(rig, "a", 1)
    run = rig.submit(graph_of([(), (0,)], specs=[spec()._replace(limits=(("api", 1),)), WIDE]))
    (number,) = assigned(rig.turn(), "a")
    rig.outcome("a", number)
    rig.turn()
    assert [fact.step for fact in run.life.facts if fact.kind == FACT_WAITING] == [1]


def test_the_outbox_has_nothing_else() -> None:
    rig = demanding()
    join(rig, "a", 2)
    rig.turn()
    submit(rig, WIDE)
    box = rig.core.drain(rig.now)
    assert isinstance(box, Outbox)
    assert list(box.messages) == [b"client", b"a"]
    assert (box.broadcasts, box.watch, box.gone) == ([], [], [])


# -- what a peer may send ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(15, value) for value in (0, -1, 1.0, True, "1", None, 100_001)],
        *[(field, value) for field in (16, 17) for value in (None, 1, "ab", (1,), (("a", 1, 2),), (("a", -1),))],
        *[(field, (row,)) for field in (16, 17) for row in (("a", 1.0), ("a", True), ("a", 2**62), (b"a", 1), (1, 1))],
    ],
)
def test_odd_slots_needs_and_limits_are_refused(field: int, value: object) -> None:
    values: list[Any] = list(spec())
    values[field] = value
    with pytest.raises(ProtocolError):
        unpack_graph(pack_graph(Graph(["a"], [b"f"], [values], [0], [0], [b"c"], [()], [()])))  # type: ignore[list-item]
