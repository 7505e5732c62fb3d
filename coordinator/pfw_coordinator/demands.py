"""Which step that takes more than one slot goes to which worker, and for which one a worker is kept free. Pure.

Steps of equal demand wait in one queue of their run, so a demand that cannot be met now costs one look, however many
steps have it. Steps that take one slot and nothing else never come here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from pfw.demand import Demand
from pfw.lifecycle import ReadyQueue
from pfw_coordinator.ledger import TARGET_US, Reservation, Run, Worker
from pfw_coordinator.placement import Placement, sizes_of

#: A step that has been ready for so long has a worker kept free for it.
RESERVE_AFTER_S = 2.0


class _Waiting:
    """The ready steps of one run with one demand, and the workers that may take them, the least loaded first."""

    __slots__ = ("demand", "offers", "queue", "run")

    def __init__(self, run: Run, demand: Demand, queue: ReadyQueue, workers: Iterable[Worker]) -> None:
        self.run, self.demand, self.queue = run, demand, queue
        kept = run.reserved.get(demand)
        fitting = [w for w in workers if w.fits(demand)] + ([kept] if kept is not None and kept.fits(demand) else [])
        self.offers = [(_load(worker, demand.lane), worker.number, worker) for worker in fitting]
        heapq.heapify(self.offers)

    def first_fit(self, in_use: Mapping[str, int]) -> Worker | None:
        """The least loaded worker that can take the next step now, for a retry another one; None if there is none."""
        if any(in_use.get(name, 0) >= most for name, most in self.demand.limits):
            return None
        failed_on = self.run.life.failed_on.get(self.queue.heads()[0])
        if failed_on is not None:
            others = [offer for offer in self.offers if offer[1] != failed_on and offer[2].fits(self.demand)]
            if others:
                return min(others)[2]
        while self.offers:
            load, number, worker = self.offers[0]
            if not worker.fits(self.demand):  # what was placed meanwhile took too much of it
                heapq.heappop(self.offers)
            elif load != (now := _load(worker, self.demand.lane)):
                heapq.heapreplace(self.offers, (now, number, worker))
            else:
                return worker
        return None


def _load(worker: Worker, lane: int) -> float:
    return worker.out[lane] / worker.slots[lane]


def plan_demands(
    runs: Iterable[Run],
    credit: Sequence[Iterable[Worker]],
    in_use: Mapping[str, int],
    estimates_us: Sequence[float],
    floor: int,
) -> Iterator[tuple[Demand, Placement]]:
    """Takes ready steps and gives each to a worker that has all it takes, run priority first, else in turn.

    The caller books each placement in the worker's ledger before it takes the next.

    Args:
        runs: Runs with ready steps of some demand.
        credit: By lane, the workers with credit.
        in_use: How many steps are assigned that count for a limit.
        estimates_us: Function number -> expected µs, 0 if not known.
        floor: Only runs of this priority or a higher one.
    """
    wanted = sorted((run for run in runs if run.priority >= floor), key=lambda run: -run.priority)
    for _, equals in groupby(wanted, key=lambda run: run.priority):
        rotation = deque(
            _Waiting(run, demand, queue, credit[demand.lane])
            for run in equals
            for demand, queue in run.life.demanding.items()
            if queue.count
        )
        while rotation:
            waiting = rotation.popleft()
            # A step that was placed just now may have failed, which ends its run: nothing else of that waits then.
            worker = waiting.first_fit(in_use) if waiting.queue.count else None
            if worker is None:
                continue
            run, demand, queue = waiting.run, waiting.demand, waiting.queue
            steps = queue.take()
            sizes, expected_us = sizes_of(run.life, steps), _expected_us(run, steps[0], demand, estimates_us)
            yield demand, (worker, run, steps, sizes, expected_us)
            if run.reserved.get(demand) is worker:
                release(run, demand)
            if queue.count:
                rotation.append(waiting)


def _expected_us(run: Run, step: int, demand: Demand, estimates_us: Sequence[float]) -> int:
    expected = int(estimates_us[run.functions[run.life.graph.function_of[step]]])
    return demand.slots * (min(expected, TARGET_US) or TARGET_US)


def release(run: Run, demand: Demand) -> Worker:
    """The worker kept free for these steps is everybody's again; returns it."""
    worker = run.reserved.pop(demand)
    worker.reservation = None
    return worker


class Outlook(NamedTuple):
    """What becomes of steps that could not be placed."""

    #: Workers that are kept free from now on, or no longer.
    changed: list[Worker]
    #: When to look again; None: nothing will need it until something else happens.
    again_at: float | None


def plan_reservations(
    runs: Iterable[Run], workers: Iterable[Worker], in_use: Mapping[str, int], floor: int, now: float
) -> Outlook:
    """Keeps a worker free for each demand that has waited long: the one that lacks the fewest slots for it.

    Args:
        runs: Runs with ready steps of some demand, or with workers kept free.
        workers: All workers.
        in_use: How many steps are assigned that count for a limit.
        floor: Runs of a lower priority have nothing kept free: others are before them.
        now: The time.
    """
    changed, dues = [], []
    for run in runs:
        for demand, queue in run.life.demanding.items():
            kept = run.reserved.get(demand)
            if kept is not None and (not queue.count or kept.is_suspect or kept.is_leaving):
                changed.append(release(run, demand))
            elif kept is None and queue.count and run.priority >= floor:
                due = run.life.queued_at[queue.heads()[0]] + RESERVE_AFTER_S
                if now < due:
                    dues.append(due)
                elif all(in_use.get(name, 0) < most for name, most in demand.limits):
                    changed += _reserve(run, demand, workers)
    return Outlook(changed, min(dues, default=None))


def _reserve(run: Run, demand: Demand, workers: Iterable[Worker]) -> list[Worker]:
    free = [
        worker
        for worker in workers
        if not (worker.reservation or worker.is_suspect or worker.is_leaving) and worker.can_meet(demand)
    ]
    if not free:
        return []
    worker = min(free, key=lambda worker: (worker.out[demand.lane] - worker.slots[demand.lane], worker.number))
    run.reserved[demand] = worker
    worker.reservation = Reservation(run, demand)
    return [worker]
