"""Every relation that the state of a core must satisfy between two turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    EXPANDED,
    FACT_WAITING,
    FAILED,
    READY,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    WAITING,
)
from pfw.graph import IF_ALL, LANE_CPU
from pfw.lifecycle import RunLife
from pfw_coordinator.inner import CALL
from pfw_coordinator.outlook import waits_for

if TYPE_CHECKING:
    from pfw_coordinator.core import Core as CoordinatorCore
    from pfw_coordinator.ledger import Run, Worker
    from pfw_worker.core import Core as WorkerCore


def check(core: CoordinatorCore) -> None:
    """The coordinator's ledgers, runs and sets agree with each other. To be called after `drain`."""
    assigned: Counter[tuple[int, int]] = Counter()
    numbers: Counter[int] = Counter()
    for peer, worker in core.workers.items():
        assert worker.peer == peer
        _check_ledger(core, worker)
        for number, attempt in worker.attempts.items():
            numbers[number] += 1
            assigned[attempt.run.number, attempt.step] += 1
            assert attempt.run.life.states[attempt.step] == ASSIGNED, f"attempt {number} of a step that is not assigned"
    assert all(count == 1 for count in numbers.values()), "an attempt in two ledgers"
    has_lane = [any(w.slots[lane] for w in core.workers.values() if not w.is_leaving) for lane in range(3)]
    is_starting = core.is_embedded and not core.workers
    expected: Counter[tuple[int, int]] = Counter()
    for run in core.runs.values():
        expected.update((run.number, step) for step, state in enumerate(run.life.states) if state == ASSIGNED)
        ahead = [w.attempts[number] for w in core.workers.values() for number in w.ahead]
        check_life(run.life, {attempt.step for attempt in ahead if attempt.run is run}, len(run.inner))
        for lane, queue in enumerate(run.life.ready):
            assert not queue.count or run in core._waiting[lane], f"run {run.number} waits in lane {lane} unseen"
            is_said = has_lane[lane] or is_starting or waits_for(run)
            assert not queue.count or is_said, f"run {run.number} waits for lane {lane} and was not told"
        wanted = [queue for queue in run.life.demanding.values() if queue.count]
        assert not wanted or run in core._demanding, f"run {run.number} waits with demands unseen"
        assert all(worker.reservation == (run, demand) for demand, worker in run.reserved.items())
        assert run.life.is_finished or len(run.functions) == len(run.life.graph.functions)
        for subscription in run.subscriptions:
            _check_subscription(subscription)
        _check_inner(core, run)
    assert assigned == expected, f"assigned {expected - assigned}, in a ledger {assigned - expected}"
    _check_functions(core)
    _check_limits(core)


def _check_inner(core: CoordinatorCore, run: Run) -> None:
    """Each call that gave way has an inner run, which keeps no facts; after its end only what goes on beside it."""
    life = run.life
    if run.has_calls:
        assert {step for step, state in enumerate(life.states) if state == EXPANDED} <= set(run.inner)
    if run.outer is not None and run not in core._touched:
        assert run.outer.inner[run.outer_step] is run
        assert life.states[CALL] == run.outer.life.states[run.outer_step]
        assert {fact.kind for fact in life.facts} <= {FACT_WAITING}


def _check_ledger(core: CoordinatorCore, worker: Worker) -> None:
    """Credit is what the attempts say, and the sets of workers with credit are right."""
    for lane in range(3):
        attempts = [attempt for attempt in worker.attempts.values() if attempt.lane == lane]
        behind = sum(worker.attempts[number].lane == lane for number in worker.ahead)
        assert worker.out[lane] + behind == sum(attempt.demand.slots if attempt.demand else 1 for attempt in attempts)
        assert worker.queued_us[lane] == sum(attempt.estimate_us for attempt in attempts)
        assert (worker in core._credit[lane]) == worker.has_credit(lane), f"credit of {worker.name} in lane {lane}"
    _check_demands(worker)
    for number in worker.ahead:
        before, attempt = worker.attempts[number - 1], worker.attempts[number]
        assert before.step in attempt.run.life.graph.inputs[attempt.step]
        assert before.run is attempt.run
    assert worker.out_bytes == sum(attempt.size for attempt in worker.attempts.values())
    assert all(0 < attempt.batch <= worker.batch for attempt in worker.attempts.values())
    for credit in core._credit:
        assert all(known in core.workers.values() for known in credit), "a worker that is gone has credit"


def _check_demands(worker: Worker) -> None:
    """Never more is reserved than the worker has."""
    reserved: Counter[str] = Counter()
    for attempt in worker.attempts.values():
        reserved.update(dict(attempt.demand.needs) if attempt.demand else {})
    for name, offered in worker.resources.items():
        assert worker.left[name] == offered - reserved[name] >= 0, f"{name} of {worker.name}"
    assert set(reserved) <= set(worker.resources)
    if worker.reservation is not None:
        assert worker.reservation.run.reserved[worker.reservation.demand] is worker


def _check_limits(core: CoordinatorCore) -> None:
    """No limit is exceeded, whatever worker its steps are on."""
    demands = [attempt.demand for worker in core.workers.values() for attempt in worker.attempts.values()]
    used = Counter(name for demand in demands if demand for name, _ in demand.limits)
    assert used == +core._in_use
    for name, count in used.items():
        assert count <= max(dict(demand.limits).get(name, 0) for demand in demands if demand), f"{count} of {name}"


def _check_subscription(subscription: object) -> None:
    from pfw_coordinator.ledger import Subscription

    assert isinstance(subscription, Subscription)
    life = subscription.run.life
    assert subscription.client.subscriptions[subscription.run.number] is subscription
    assert life.facts.first <= subscription.cursor <= subscription.sent <= life.facts.end
    assert subscription.sent_bytes == sum(size for _, size in subscription.in_flight)


def _check_functions(core: CoordinatorCore) -> None:
    users: Counter[int] = Counter()
    for run in core.runs.values():
        users.update(run.functions)
    for number, count in enumerate(core._functions.users):
        assert count == users[number], f"function {number} has {users[number]} users, not {count}"
        assert bool(core._functions.pickles[number]) == bool(count)


def check_life(life: RunLife, ahead: Collection[int] = (), inner_runs: int = 0) -> None:
    """The counts of a run are what its states say; each of its inner runs counts as a step.

    Args:
        life: Of the run.
        ahead: The steps handed out before their input was there.
        inner_runs: How many it has.
    """
    states = life.states
    finished = [state >= SUCCEEDED for state in states]
    assert life.unfinished == finished.count(False) + inner_runs
    queues = (*life.ready, *life.demanding.values())
    queued = [step for queue in queues for bucket in queue._buckets.values() for step in bucket]
    for queue in queues:
        assert queue.count == sum(map(len, queue._buckets.values()))
        assert sorted(-rank for rank in queue._ranks) == sorted(queue._buckets)
    parked = [step for step in life._parked if states[step] == READY]
    assert sorted(queued + parked) == [step for step, state in enumerate(states) if state == READY]
    assert life.all_input_bytes(queued) == [life.input_bytes(step) for step in queued]
    assert all(life.input_bytes(step) <= life.most_input_bytes for step in queued), "a step is larger than was said"
    backing_off = {step for _, step in life._backoff_heap}
    assert all(step in backing_off for step, state in enumerate(states) if state == BACKOFF)
    _check_dependencies(life, ahead)
    if isinstance(life._discards, set):
        assert {states[step] for step in life._discards} <= {ASSIGNED, CANCELLED}
    if life.status >= RUN_SUCCEEDED:
        assert not life.unfinished
        assert not life.is_open
    if life._wave_left:
        left = Counter(depth for step, depth in enumerate(life._depths) if not finished[step])
        assert all(life._wave_left[depth] == left[depth] for depth in range(len(life._wave_left)))


def _check_dependencies(life: RunLife, ahead: Collection[int]) -> None:
    states, graph = life.states, life.graph
    consumers: Counter[int] = Counter()
    for step, state in enumerate(states):
        dependencies = (*graph.inputs[step], *graph.after[step])
        if state < SUCCEEDED:
            consumers.update(graph.inputs[step])
        is_tolerant = life.spec(step).run_if != IF_ALL
        if state == WAITING:
            missing = sum(states[d] < SUCCEEDED if is_tolerant else states[d] != SUCCEEDED for d in dependencies)
            assert life._missing[step] == missing > 0, f"step {step} waits for {missing}"
        elif state == ASSIGNED and life._discards:
            continue  # what it follows may have been cancelled
        elif step in ahead:
            assert state == ASSIGNED
            assert life._missing[step] == sum(states[d] != SUCCEEDED for d in dependencies) == 1
        elif step in life._crashes and state == FAILED:
            pass  # it may have been begun ahead of an input that has to be made again
        elif state not in (CANCELLED, SKIPPED, EXPANDED) and (life.attempts[step] or state < SUCCEEDED):
            assert all(states[d] >= SUCCEEDED if is_tolerant else states[d] == SUCCEEDED for d in dependencies)
    for step, count in consumers.items():
        assert life._consumers[step] >= count
        assert states[step] != SUCCEEDED or life.outputs[step] is not None, f"the output of {step} is gone too early"
    _check_inputs(life, ahead)


def _check_inputs(life: RunLife, ahead: Collection[int]) -> None:
    states, graph = life.states, life.graph
    for step, state in enumerate(states):
        if state == ASSIGNED and life._discards:
            continue
        if READY <= state < SUCCEEDED and (life.spec(step).run_if != IF_ALL or step in ahead):
            missing = [dependency for dependency in graph.inputs[step] if life.outputs[dependency] is None]
            assert len(missing) == (step in ahead), f"nothing stands for inputs {missing} of {step}"


def check_worker(core: WorkerCore) -> None:
    """Each attempt that a worker holds is in one place. To be called after `drain`."""
    places: Counter[int] = Counter()
    for lane, queue in enumerate(core._queues):
        places.update(queue)
        assert all(core.attempts[number].lane == lane for number in queue)
    places.update(core._choosy)
    assert all(core.attempts[number].need is not None for number in core._choosy)
    places.update(number for number in core._blocked if number in core.attempts)
    for head, chain in core._chains.items():
        assert head in core._queues[core.attempts[head].lane] or head in core._blocked
        places.update(chain)
        assert chain == list(range(head + 1, head + 1 + len(chain))), f"chain {head}: {chain}"
    for slot in core.slots.values():
        held = [number for number in slot.held if number in core.attempts]
        places.update(held)
        assert slot.held or slot.expected_us == 0
    assert places == Counter(core.attempts.keys()), f"held {list(core.attempts)}, found {dict(places)}"
    assert all(held.first <= number < held.first + len(held.calls) for number, held in core.attempts.items())
    assert not set(core.attempts) & core._in_outbox
    assert set(core._stops) <= set(core.attempts), "what is not held is being stopped"
    waiting = set(core._unsent.numbers)
    assert core._in_outbox == waiting | {attempt for columns in core._outbox.values() for attempt in columns[0]}
    assert len(core._plain_slots(LANE_CPU)) == core.limits[LANE_CPU]
    for lane in (0, 1, 2):
        assert len(core._plain_slots(lane)) <= max(1, core.limits[lane])
        _check_slots_taken(core, lane)


def _check_slots_taken(core: WorkerCore, lane: int) -> None:
    """Attempts that want slots of their own kind have them, each GPU once, and no more than there are."""
    own = [(slot, outfit) for slot, outfit in core._own_slots() if slot.lane == lane]
    taken = [outfit.slots for slot, outfit in own if slot.held]
    busy = sum(bool(slot.held) for slot in core._plain_slots(lane))
    assert not taken or sum(taken) + busy <= core.limits[lane], f"{taken} and {busy} slots of {core.limits[lane]}"
    assert len(own) <= 2 * core.limits[lane] + 1
    gpus = [name for slot, outfit in core._own_slots() if slot.held for name in outfit.gpus]
    assert len(gpus) == len(set(gpus)) <= core.gpus
