"""How much memory steps may hold, and how often that is looked at. Pure.

What counts is a process's private memory: what it maps together with others is not the step's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pfw.failure import FAIL_MEMORY, Failure

#: A process takes fresh memory no faster than this, bytes per second.
FILL_BYTES_PER_S = 4 << 30
#: How often is looked at the least and at the most, s.
LEAST_S, MOST_S = 0.005, 0.100
#: Of the worker's memory all its processes together may hold this share.
WORKER_SHARE = 0.9


class Weight(NamedTuple):
    """What one process holds."""

    slot: int
    #: Private memory.
    bytes: int
    #: What the step that executes there may hold; 0: no limit of its own.
    limit: int


class Excess(NamedTuple):
    """Why a process is ended."""

    limit: int
    bytes: int
    message: str

    def describe(self) -> Failure:
        """The failure of the step that executes there."""
        failure = Failure(FAIL_MEMORY, "MemoryLimitError", self.message, peak_bytes=self.bytes)
        return failure._replace(limit_bytes=self.limit)


class Judgement(NamedTuple):
    """What follows from the weights."""

    #: {slot: why its process is ended}
    excesses: dict[int, Excess]
    #: When to look again, s from now.
    pause_s: float


def pause_s(headroom: float) -> float:
    """How long a process needs at least to fill so many bytes, within LEAST_S and MOST_S."""
    return min(MOST_S, max(LEAST_S, headroom / FILL_BYTES_PER_S))


def judge(weights: Iterable[Weight], rest_bytes: int, worker_bytes: int) -> Judgement:
    """Which processes hold too much.

    Args:
        weights: Of the slots.
        rest_bytes: What the worker holds beside its slots.
        worker_bytes: The worker's memory; 0: not known.
    """
    known = list(weights)
    excesses = {weight.slot: _own(weight) for weight in known if 0 < weight.limit < weight.bytes}
    headrooms = [weight.limit - weight.bytes for weight in known if weight.limit]
    most = worker_bytes * WORKER_SHARE
    left = most - rest_bytes - sum(weight.bytes for weight in known if weight.slot not in excesses)
    if most and left < 0 and not excesses and known:
        largest = max(known, key=lambda weight: weight.bytes)
        excesses[largest.slot] = _shared(largest, worker_bytes)
    return Judgement(excesses, pause_s(min([left, *headrooms] if most else headrooms, default=float("inf"))))


def _text(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _own(weight: Weight) -> Excess:
    held, limit = _text(weight.bytes), _text(weight.limit)
    return Excess(weight.limit, weight.bytes, f"it held {held} of memory, its limit is {limit}")


def _shared(weight: Weight, worker_bytes: int) -> Excess:
    limit = int(worker_bytes * WORKER_SHARE)
    message = (
        f"the worker's processes held more than {WORKER_SHARE:.0%} of its {_text(worker_bytes)} of memory, "
        f"and this was the largest, with {_text(weight.bytes)}"
    )
    return Excess(limit, weight.bytes, message)
