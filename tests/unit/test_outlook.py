"""What ready steps wait for: told to the client where nobody can run them, and to whoever asks."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.columns import Assigned
from helpers.coordinator_rig import CoordinatorRig, of_kind
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import FACT_WAITING
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO, Spec
from pfw.wire import unpack
from pfw_coordinator.core import SUSPECT_S
from pfw_coordinator.demands import RESERVE_AFTER_S
from pfw_coordinator.ledger import Run

WIDE = spec(heavy=1)._replace(slots=2)
HEAVY = spec(heavy=1)


@pytest.fixture
def rig() -> CoordinatorRig:
    found = CoordinatorRig()
    found.client()
    return found


def submit(rig: CoordinatorRig, one: Spec, count: int = 1, key: bytes = b"key", **fields: Any) -> Run:
    return rig.submit(graph_of([()] * count, specs=[one]), key=key, **fields)


def register(rig: CoordinatorRig, name: str, cpu: int = 1, io: int = 1, **resources: int) -> None:
    rig.register(name, cpu, io, permits=8, resources=tuple(resources.items()))


def told(run: Run) -> list[str]:
    """What its client was told of."""
    return [fact.payload.decode() for fact in run.life.facts if fact.kind == FACT_WAITING]


def ask(rig: CoordinatorRig, what: str, run: int = 0, step: int = 0) -> Any:
    rig.core.on_query(b"client", m.Query(1, what, run, step), rig.now)
    return unpack(of_kind(rig.turn()["client"], m.Answer)[-1].body)


def obstacle(rig: CoordinatorRig, run: Run, step: int = 0) -> str:
    rig.turn()
    found = ask(rig, "step", run.number, step)
    assert found["state"] == "READY"
    return str(found["obstacle"])


# -- what nobody can run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lane", "text"),
    [
        (LANE_CPU, "it needs 1 CPU slot, and there is no worker"),
        (LANE_IO, "it needs 1 IO slot, and there is no worker"),
        (LANE_ASYNC, "it needs 1 async permit, and there is no worker"),
    ],
)
def test_without_a_worker_it_is_said_at_once_and_once(rig: CoordinatorRig, lane: int, text: str) -> None:
    run = submit(rig, spec(lane), 3)
    assert rig.turn()["client"][-1].rows[-1][8] == text.encode()
    rig.turn()
    assert told(run) == [text]
    assert ask(rig, "status")["waiting"] == 1
    assert ask(rig, "runs")[0]["waits_for"] == text


def test_a_lane_that_no_worker_has_is_said(rig: CoordinatorRig) -> None:
    register(rig, "a", io=0)
    run = submit(rig, spec(LANE_IO))
    plain = submit(rig, spec(), key=b"plain")
    said = rig.turn()
    assert len(of_kind(said["a"], Assigned)) == 1
    assert told(run) == ["it needs 1 IO slot of one worker, and the most that a worker has is 0"]
    register(rig, "b", io=0)
    rig.turn()
    assert len(told(run)) == 1, "the same is not said again"
    register(rig, "c", cpu=0)
    assert len(of_kind(rig.turn()["c"], Assigned)) == 1
    assert told(plain) == []


def test_who_waits_for_a_busy_worker_is_not_told(rig: CoordinatorRig) -> None:
    register(rig, "a")
    run = submit(rig, HEAVY, 3)
    rig.turn()
    assert told(run) == []


def test_what_was_said_is_forgotten_when_a_worker_comes_and_said_again_when_it_goes(rig: CoordinatorRig) -> None:
    run = submit(rig, HEAVY, 2)
    rig.turn()
    register(rig, "a")
    rig.turn()
    assert ask(rig, "runs")[0]["waits_for"] == "", "the second step waits for a slot that there is"
    rig.core.on_leaving(b"a", m.Leaving(0), rig.now)
    rig.turn()
    assert told(run) == ["it needs 1 CPU slot, and there is no worker"] * 2


def test_on_a_fixed_cluster_whose_worker_is_on_its_way_nothing_is_said() -> None:
    rig = CoordinatorRig(is_embedded=True)
    rig.client()
    run = submit(rig, spec())
    rig.turn()
    register(rig, "a")
    rig.turn()
    assert told(run) == []


# -- what those who ask are told ---------------------------------------------------------------------------------------


def test_without_a_worker(rig: CoordinatorRig) -> None:
    assert obstacle(rig, submit(rig, spec())) == "no worker is registered"


def test_workers_that_take_nothing(rig: CoordinatorRig) -> None:
    register(rig, "quiet")
    rig.turn()
    rig.sleep(SUSPECT_S + 0.5)
    register(rig, "old")
    rig.core.on_leaving(b"old", m.Leaving(0), rig.now)
    run = submit(rig, spec())
    assert obstacle(rig, run) == "no worker takes anything now: quiet (suspect), old (leaving)"
    register(rig, "able", io=0)
    inputs = submit(rig, spec(LANE_IO), key=b"io")
    assert obstacle(rig, inputs) == (
        "it needs 1 IO slot of one worker, and the most that a worker has is 0; "
        "not counted: quiet (suspect), old (leaving)"
    )


def test_one_that_is_held_by_a_suspect_worker(rig: CoordinatorRig) -> None:
    register(rig, "a")
    run = submit(rig, spec())
    rig.turn()
    rig.sleep(SUSPECT_S + 0.5)
    found = ask(rig, "step", run.number)
    assert (found["state"], found["worker"]) == ("ASSIGNED", "a")
    assert found["silent_s"] == pytest.approx(SUSPECT_S + 0.5)


def test_a_plain_step_waits_for_a_slot(rig: CoordinatorRig) -> None:
    register(rig, "a")
    run = submit(rig, HEAVY, 2)
    assert obstacle(rig, run, 1) == ""


def test_what_is_not_free_is_named(rig: CoordinatorRig) -> None:
    register(rig, "a", 3, gpu=2, memory=10**9)
    one = submit(rig, HEAVY._replace(needs=(("gpu", 1), ("memory", 6 * 10**8))), 2)
    rig.turn()
    assert obstacle(rig, one, 1) == (
        "it needs 600.0 MB of memory of one worker, and the most that a worker has free is 400.0 MB"
    )
    two = submit(rig, HEAVY._replace(needs=(("gpu", 2),)), key=b"two")
    assert obstacle(rig, two) == "it needs 2 'gpu' of one worker, and the most that a worker has free is 1"
    wide = submit(rig, HEAVY._replace(slots=3), key=b"wide")
    assert obstacle(rig, wide) == "it needs 3 CPU slots of one worker, and the most that a worker has free is 2"
    never = submit(rig, HEAVY._replace(slots=4), key=b"never")
    assert obstacle(rig, never) == "it needs 4 CPU slots of one worker, and the most that a worker has is 3"


def test_limits_are_named(rig: CoordinatorRig) -> None:
    register(rig, "a", 9)
    limited = submit(rig, HEAVY._replace(limits=(("api", 2),)), 3)
    assert obstacle(rig, limited, 2) == "the limit 'api' is 2, and 2 steps that count for it are assigned"
    capped = submit(rig, HEAVY, 3, key=b"capped", max_parallel=1)
    assert obstacle(rig, capped, 2) == "its run has max_parallel_steps=1, and so many of its steps are assigned"


def test_a_slot_that_is_kept_free_is_not_free(rig: CoordinatorRig) -> None:
    register(rig, "a", 2)
    plain = submit(rig, HEAVY, 9)
    rig.turn()
    wide = submit(rig, WIDE, key=b"wide")
    rig.turn()
    rig.turn(rig.now + RESERVE_AFTER_S)
    rig.outcome("a", next(iter(rig.core.workers[b"a"].attempts)), code=oc.OK)
    assert obstacle(rig, plain, 8) == "what is free is kept for a step that takes more and has waited long: a"
    assert obstacle(rig, wide) == "it needs 2 CPU slots of one worker, and the most that a worker has free is 1"
