"""What the worker knows of each attempt and slot. Plain records, no policy."""

from __future__ import annotations

from copy import copy
from itertools import chain
from typing import NamedTuple

from pfw.messages import Inputs, OutcomeColumns
from pfw_worker.memory import Excess
from pfw_worker.outfit import Need, Outfit


class Held:
    """Attempts in this worker's hands that are alike and were assigned together: numbered from `first`.

    No tuple, whose fields take three times as long to read: that happens some twenty times for each message.
    """

    __slots__ = (
        "attempt",
        "calls",
        "estimate_us",
        "first",
        "function",
        "grace_s",
        "inputs",
        "is_once",
        "lane",
        "need",
        "run",
        "run_id",
        "sizes",
        "timeout_s",
    )

    def __init__(
        self,
        first: int,
        run: int,
        run_id: str,
        attempt: int,
        function: int,
        lane: int,
        estimate_us: int,
        grace_s: float,
        timeout_s: float,
        is_once: bool,
        need: Need | None,
        calls: tuple[bytes, ...],
        inputs: tuple[Inputs, ...],
        sizes: tuple[int, ...],
    ) -> None:
        self.first = first
        self.run, self.run_id = run, run_id
        #: Which attempt of its step each is, from 1.
        self.attempt = attempt
        self.function, self.lane, self.estimate_us = function, lane, estimate_us
        self.grace_s = grace_s
        #: How long each may run; 0: as long as it takes.
        self.timeout_s = timeout_s
        #: They must not be begun twice: where nobody knows whether one was begun, it was.
        self.is_once = is_once
        #: What each wants of its slot; None: any slot of its lane will do.
        self.need = need
        self.calls = calls
        #: For each its inputs; () if none has any.
        self.inputs = inputs
        #: Bytes of the call and the inputs of each.
        self.sizes = sizes

    def expecting(self, estimate_us: int) -> Held:
        """The same attempts, expected to take so long."""
        found = copy(self)
        found.estimate_us = estimate_us
        return found

    def follows(self, number: int) -> bool:
        """Whether the attempt of this number gets the output of the one before."""
        return bool(self.inputs) and None in self.inputs[number - self.first]

    def block(self, number: int, count: int, is_short: int) -> SlotBlock:
        """So many of the attempts, from this number on, as a slot is sent them."""
        start = number - self.first
        end = start + count
        inputs = self.inputs[start:end]
        return number, self.run, self.run_id, self.attempt, self.function, is_short, self.calls[start:end], inputs


#: As `pfw_worker.slot` is sent attempts: (first, run, run id, try, function, known short, calls, inputs).
SlotBlock = tuple[int, int, str, int, int, int, tuple[bytes, ...], tuple[Inputs, ...]]


class Unsent:
    """Outcomes of which nobody was told yet, in columns as they travel."""

    __slots__ = ("_count", "_parts")

    def __init__(self) -> None:
        self._parts: list[OutcomeColumns] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def numbers(self) -> list[int]:
        """The attempts."""
        return [number for part in self._parts for number in part[0]]

    def add(self, number: int, code: int, *cells: int | bytes) -> None:
        """One outcome: start_us, run_us, payload, cpu_us, peak_bytes."""
        self.extend(((number,), bytes((code,)), *[(cell,) for cell in cells]))  # type: ignore[arg-type]

    def extend(self, columns: OutcomeColumns) -> None:
        """Many, one or more."""
        self._parts.append(columns)
        self._count += len(columns[0])

    def take(self) -> OutcomeColumns:
        """All of them, which are no longer here then."""
        parts, self._parts, self._count = self._parts, [], 0
        if len(parts) == 1:
            return parts[0]
        numbers, codes, *others = zip(*parts, strict=True)
        rest = [tuple(chain.from_iterable(column)) for column in others]
        return tuple(chain.from_iterable(numbers)), b"".join(codes), *rest  # type: ignore[return-value]


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
