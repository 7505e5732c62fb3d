"""Which ready step goes to which worker, and what is taken back. The one place where that is decided. Pure."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

from pfw.graph import LANE_ASYNC, LANE_CPU
from pfw.lifecycle import RunLife
from pfw_coordinator.ledger import (
    ALONE_TARGET_US,
    DEEP_TARGET_US,
    FLOOR_US,
    LONG_US,
    MAX_HELD,
    SMALL_BYTES,
    TARGET_US,
    Run,
    Worker,
)

#: (worker, run, steps of one function and spec, bytes of each with its inputs, expected µs of each)
Placement = tuple[Worker, Run, Sequence[int], Sequence[int], int]

#: Expected work, steps and bytes of a ready step and those sent along with it.
CHAIN_US = 2_000
CHAIN_STEPS = 256
CHAIN_BYTES = 32 << 10
#: A slot that has been idle for so long takes work back from a worker that was sent more than it can start.
RECALL_AFTER_S = 0.010
#: The same worker is not asked more often: what it has already given to its slots stays there.
RECALL_EVERY_S = 0.100


def plan_round(
    lane: int, runs: Collection[Run], workers: Collection[Worker], estimates_us: Sequence[float], *,
    is_alone: bool = False,
) -> Iterator[Placement]:  # fmt: skip
    """Takes ready steps from the runs and gives them to workers, run priority first.

    Idle slots come first: one step at a time in turn from each run, the least loaded worker first; a step that is
    tried again goes to another worker than the last one, if one has an idle slot. Then short steps
    are sent ahead, to each worker its share, up to its target of expected work for every slot. Steps that are heavy,
    long or of unknown duration are never sent ahead. While some of those wait, only a worker of which a slot idled just
    now is sent more: else short steps of one run would keep every slot from the others until there are none left.

    The caller books each placement in the worker's ledger before it takes the next.

    Args:
        lane: The lane to plan for.
        runs: Runs with ready steps in this lane, in the order of their turn.
        workers: Workers with credit in this lane.
        estimates_us: Function number -> expected µs, 0 if not known.
        is_alone: There is one worker only, so that nobody else could start sooner what it is sent.
    """
    offers = list(workers)
    for priority in sorted({run.priority for run in runs}, reverse=True):
        equals = deque([run for run in runs if run.priority == priority])
        idle = [worker for worker in offers if worker.out[lane] < worker.slots[lane]]
        yield from _fill_idle(lane, equals, idle, estimates_us)
        if waits_for_slots(lane, equals, estimates_us):
            yield from _send_ahead(lane, equals, idle, estimates_us, TARGET_US)
            return
        if equals:
            is_alone = is_alone and len(runs) == 1
            target_us = _plan_target(lane, equals, offers, estimates_us, is_alone=is_alone)
            yield from _send_ahead(lane, equals, offers, estimates_us, target_us)


def waits_for_slots(lane: int, runs: Iterable[Run], estimates_us: Sequence[float]) -> bool:
    """Whether the next step of one of these runs can start only on a slot that idles."""
    queues = [(run, run.life.ready[lane]) for run in runs]
    return any(queue.count and not _goes_ahead(run, queue.heads()[0], estimates_us) for run, queue in queues)


def _goes_ahead(run: Run, step: int, estimates_us: Sequence[float]) -> bool:
    """Whether a step may be sent to a worker of which every slot is taken."""
    expected_us = estimates_us[run.functions[run.life.graph.function_of[step]]]
    return 0 < expected_us < LONG_US and run.life.spec(step).may_go_ahead


def _fill_idle(
    lane: int, rotation: deque[Run], workers: list[Worker], estimates_us: Sequence[float]
) -> Iterator[Placement]:
    """One step for each idle slot; afterwards `rotation` holds the runs that still have ready steps."""
    heap = [(w.out[lane] / w.slots[lane], w.number, w) for w in workers]
    heapq.heapify(heap)
    while heap and rotation:
        run = rotation.popleft()
        queue = run.life.ready[lane]
        if not queue.count:
            continue
        steps = queue.take()
        if queue.count:
            rotation.append(run)
        avoided = None
        if len(heap) > 1 and run.life.failed_on.get(steps[0]) == heap[0][1]:
            avoided = heapq.heappop(heap)
        worker = heap[0][2]
        function = run.functions[run.life.graph.function_of[steps[0]]]
        yield worker, run, steps, sizes_of(run.life, steps), counted_us(estimates_us[function])
        if worker.out[lane] < worker.slots[lane]:
            heapq.heapreplace(heap, (worker.out[lane] / worker.slots[lane], worker.number, worker))
        else:
            heapq.heappop(heap)
        if avoided is not None:
            heapq.heappush(heap, avoided)


def _send_ahead(
    lane: int, rotation: deque[Run], workers: list[Worker], estimates_us: Sequence[float], target_us: int
) -> Iterator[Placement]:
    ready = sum(run.life.ready[lane].count for run in rotation)
    share = math.ceil(ready / (len(workers) or 1))
    for worker in sorted(workers, key=lambda w: w.queued_us[lane]):
        worker.target_us[lane] = target_us
        yield from _fill_ahead(lane, rotation, worker, share, estimates_us)


def _plan_target(
    lane: int, runs: Iterable[Run], workers: list[Worker], estimates_us: Sequence[float], *, is_alone: bool
) -> int:
    """How much may be sent ahead to each slot: half of its share of what is ready, within bounds.

    A worker that is alone with one run gets all it may have, and more: 1,000 steps of 5 ms cost coordinator and client
    110 ms in place of 165, with the longer messages to slots that it can make of so much.
    """
    if lane != LANE_CPU:
        return TARGET_US
    if is_alone:
        return ALONE_TARGET_US
    ready_us = 0
    for run in runs:
        queue = run.life.ready[lane]
        if queue.count:
            function = run.functions[run.life.graph.function_of[queue.heads()[0]]]
            ready_us += queue.count * max(FLOOR_US, int(estimates_us[function]))
    slots = sum([worker.slots[lane] for worker in workers]) or 1
    return max(TARGET_US, min(DEEP_TARGET_US, ready_us // (2 * slots)))


def _fill_ahead(
    lane: int, rotation: deque[Run], worker: Worker, share: int, estimates_us: Sequence[float]
) -> Iterator[Placement]:
    """Up to `share` short steps for one worker."""
    while rotation and share > 0:
        run = rotation.popleft()
        queue, life = run.life.ready[lane], run.life
        turn = share if not rotation else 1 + share // (len(rotation) + 1)
        while turn and queue.count:
            step = queue.heads()[0]
            if not _goes_ahead(run, step, estimates_us):
                break
            expected = int(estimates_us[run.functions[life.graph.function_of[step]]])
            room = worker.room_us(lane)
            if room <= 0:
                rotation.appendleft(run)
                return
            expected = max(expected, FLOOR_US)
            most = min(turn, math.ceil(room / expected), MAX_HELD - len(worker.attempts))
            if has_chains(run, step, expected) and life.follower(step) is not None:
                most = 1  # what goes along takes room too
            heads = list(islice(queue.heads(), most))
            sizes = _sizes_of_alike(life, heads, worker.room_bytes(lane))
            steps = queue.take(len(sizes))
            yield worker, run, steps, sizes, expected
            turn -= len(steps)
            share -= len(steps)
        else:
            if queue.count:
                rotation.append(run)


def _sizes_of_alike(life: RunLife, steps: Sequence[int], room_bytes: int) -> list[int]:
    """The sizes of the first of these steps and those after it that have its function and spec, and find room."""
    for kinds in (life.graph.function_of, life.graph.spec_of):
        if len(set(map(kinds.__getitem__, steps))) > 1:
            first = kinds[steps[0]]
            steps = steps[: next(place for place, step in enumerate(steps) if kinds[step] != first)]
    sizes = sizes_of(life, steps)
    return sizes[: 1 + bisect_left(list(accumulate(sizes)), room_bytes)]


def has_chains(run: Run, step: int, expected_us: int) -> bool:
    """Whether steps as this one may have others sent along: short ones that run in a slot process."""
    if expected_us >= CHAIN_US or not run.life.has_lines:
        return False
    spec = run.life.spec(step)
    return spec.may_go_ahead and spec.lane != LANE_ASYNC


def plan_chain(
    run: Run, step: int, expected_us: int, estimates_us: Sequence[float], most: int
) -> list[tuple[int, int]]:
    """Which steps are sent along with one that is placed: each follows the one before in the same slot.

    Without this each step of a chain costs a round trip between coordinator and slot.

    Args:
        run: The run.
        step: The step that is placed.
        expected_us: How long that is expected to take.
        estimates_us: As for `plan_round`.
        most: How many at most.

    Returns:
        (step, expected µs) of each, short ones only.
    """
    life, chain, size = run.life, list[tuple[int, int]](), 0
    function_of = life.graph.function_of
    while len(chain) < min(most, CHAIN_STEPS) and (other := life.follower(step)) is not None:
        expected = int(estimates_us[run.functions[function_of[other]]])
        size += life.input_bytes(other)
        expected_us += max(expected, FLOOR_US)
        if not expected or expected_us > CHAIN_US or size > CHAIN_BYTES:
            break
        chain.append((other, max(expected, FLOOR_US)))
        step = other
    return chain


def sizes_of(life: RunLife, steps: Sequence[int]) -> list[int]:
    """What each of the steps counts for in bytes: while all of its run are small, what the largest may have.

    To add them up one by one takes 3 % of what layers with three inputs each cost both cores.
    """
    most = life.most_input_bytes
    return [most] * len(steps) if most <= SMALL_BYTES else life.all_input_bytes(steps)


def counted_us(estimate_us: float) -> int:
    """What a step of a function with this estimate counts for while it is with a worker."""
    expected = int(estimate_us)
    return max(FLOOR_US, min(expected, TARGET_US)) if expected else TARGET_US


def plan_return(lane: int, workers: Iterable[Worker]) -> list[tuple[Worker, list[int]]]:
    """What to ask back where steps wait for an idle slot: the latest of what was sent ahead beyond TARGET_US a slot."""
    requests = []
    for worker in workers:
        held = _heads(worker, lane)
        excess_us, wanted = worker.queued_us[lane] - worker.slots[lane] * TARGET_US, list[int]()
        while held and excess_us > 0:
            wanted.append(held.pop())
            excess_us -= worker.attempts[wanted[-1]].estimate_us
        if wanted:
            requests.append((worker, wanted))
    return requests


def _heads(worker: Worker, lane: int) -> list[int]:
    """What may be asked back, oldest first: what follows an attempt goes with that, and is never given back alone."""
    return [n for n, attempt in worker.attempts.items() if attempt.lane == lane and n not in worker.ahead]


class Recall(NamedTuple):
    """What to ask back."""

    #: (worker, attempts), the latest of those it was sent
    requests: list[tuple[Worker, list[int]]]
    #: When to look again; None: nothing will need it until something else happens.
    again_at: float | None


def plan_recall(lane: int, workers: Iterable[Worker], now: float) -> Recall:
    """What to ask back when nothing is ready, one worker idles and another was sent more than it can start.

    Half of the excess of the worker with the most, its latest attempts first; those that already started stay there.
    """
    offers = [w for w in workers if not (w.is_suspect or w.is_leaving)]
    idle = [w for w in offers if w.out[lane] < w.slots[lane]]
    donor = max(offers, key=lambda w: w.out[lane] - w.slots[lane], default=None)
    excess = donor.out[lane] - donor.slots[lane] if donor is not None else 0
    if donor is None or not idle or excess <= 0:
        return Recall([], None)
    due = max(donor.recalled_at + RECALL_EVERY_S, min(w.idle_since[lane] for w in idle) + RECALL_AFTER_S)
    if now < due:
        return Recall([], due)
    donor.recalled_at = now
    held = _heads(donor, lane)
    return Recall([(donor, held[-math.ceil(excess / 2) :])], now + RECALL_EVERY_S)
