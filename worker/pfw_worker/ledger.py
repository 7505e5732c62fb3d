"""What the worker knows of each attempt and slot. Plain records, no policy."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from pfw_worker.memory import Excess
from pfw_worker.outfit import Need, Outfit


class Held(NamedTuple):
    """An attempt in this worker's hands."""

    #: [attempt, run, run id, step, try, function, known short, call, inputs]: what a slot is sent.
    row: tuple[int, int, str, int, int, int, int, bytes, tuple[bytes | None, ...]]
    lane: int
    estimate_us: int
    grace_s: float
    size: int
    #: How long it may run; 0: as long as it takes.
    timeout_s: float = 0.0
    #: For how long this worker could not look while it ran: that does not count.
    unseen_s: float = 0.0
    #: It must not be begun twice: where nobody knows whether it was begun, it was.
    is_once: bool = False
    #: What it wants of its slot; None: any slot of its lane will do.
    need: Need | None = None


#: Builds a Held from one tuple; `Held(...)` takes 0.2 µs more, once a step.
new_held = partial(tuple.__new__, Held)


class Slot:
    """One slot process, or the process of all async steps."""

    __slots__ = (
        "excess",
        "expected_us",
        "functions",
        "has_large",
        "held",
        "idle_since",
        "is_killed",
        "is_ready",
        "is_recalled",
        "lane",
        "number",
        "outfit",
        "pledged",
        "to_forget",
        "unread",
    )

    def __init__(self, number: int, lane: int, now: float, outfit: Outfit | None = None, pledged: int = 0) -> None:
        self.number = number
        self.lane = lane
        #: What it was started with; None: it is like most.
        self.outfit = outfit
        #: The attempt it was started for.
        self.pledged = pledged
        #: Why its process was ended, if it held too much memory.
        self.excess: Excess | None = None
        self.is_ready = False
        self.is_killed = False
        #: Its unread messages were taken back since it was last sent one.
        self.is_recalled = False
        self.idle_since = now
        #: attempt -> when it was sent, in the order of execution
        self.held: dict[int, float] = {}
        self.expected_us = 0
        #: Functions it is known to have, and those it was sent in messages it may not have read yet.
        self.functions: set[int] = set()
        self.unread: set[int] = set()
        #: A message of several packets is on its way: none may be taken back.
        self.has_large = False
        self.to_forget: list[int] = []

    def forget_all(self) -> None:
        """Its functions and attempts are those of a coordinator that is gone."""
        self.to_forget.extend(sorted(self.functions | self.unread))
        self.functions.clear()
        self.unread.clear()
        self.held.clear()
        self.expected_us = self.pledged = 0


class Stop(NamedTuple):
    """A running attempt on its ladder."""

    since: float
    grace_s: float
    #: The timeout that is over; 0: its run was cancelled.
    timeout_s: float = 0.0
    #: How far it has been told to stop: 0, STOP_TOKEN or STOP_INTERRUPT.
    rung: int = 0
