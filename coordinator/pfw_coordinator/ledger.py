"""What the coordinator knows of each peer and run: credit, what is held, what was read. Plain records, no policy."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from pfw.demand import Demand, Offer, shortage
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO
from pfw.lifecycle import RunLife

LANES = (LANE_CPU, LANE_IO, LANE_ASYNC)

#: Queued work that keeps a slot busy while a message travels; also what a step of unknown duration counts as.
TARGET_US = 20_000
#: The same while much more is ready: messages can then be longer and fewer.
DEEP_TARGET_US = 200_000
#: The same for a worker that is alone with the steps of one run; when others are ready it gives back the rest.
ALONE_TARGET_US = 1_000_000
#: Steps of at least this length are not sent ahead: the way of a message is little beside them.
LONG_US = 10_000
#: A step costs its slot at least this, so that no-ops do not count as nothing.
FLOOR_US = 5
MAX_HELD = 4_096
#: Inputs and arguments sent ahead to one slot.
AHEAD_BYTES = 1 << 20
#: Of so much, as many may be with a worker as it may hold at all: what is smaller need not be known exactly.
SMALL_BYTES = AHEAD_BYTES // MAX_HELD


class Run:
    """One run at the coordinator: its life, and who asked for it."""

    __slots__ = (
        "backoff_at",
        "blob_digest",
        "functions",
        "graph_blob",
        "has_calls",
        "id",
        "inner",
        "is_cancel_sent",
        "is_detached",
        "is_over",
        "is_urgent",
        "kept_bytes",
        "key",
        "life",
        "meta",
        "name",
        "number",
        "outlook",
        "outer",
        "outer_step",
        "outlook_of",
        "priority",
        "reserved",
        "session",
        "started_at",
        "subscriptions",
        "terms",
        "version",
        "workers",
    )

    def __init__(self, number: int, run_id: str, name: str, session: bytes, key: bytes, life: RunLife) -> None:
        self.number = number
        self.id = run_id
        self.name = name
        self.session = session
        self.key = key
        self.life = life
        self.priority = 0
        self.started_at = 0.0
        self.is_detached = False
        #: The client's description of `.value`, not looked at.
        self.meta = b""
        self.version = ""
        #: Attaching clients get the graph as it was sent.
        self.graph_blob = b""
        self.blob_digest = b""
        #: It was submitted as an open run; {call that gave way: its inner run}, and of such a run, where it belongs.
        self.has_calls = False
        self.inner: dict[int, Run] = {}
        self.outer: Run | None = None
        self.outer_step = 0
        #: The run's function index -> the cluster's function number.
        self.functions: list[int] = []
        #: {index of a spec: may_go_ahead, grace_ms, timeout_ms, is_once}, as its steps travel.
        self.terms: dict[int, tuple[bool, int, int, int]] = {}
        self.subscriptions: list[Subscription] = []
        #: Workers that know this run and have to forget it.
        self.workers: dict[Worker, None] = {}
        #: Workers were told that it is cancelled, and that what runs of it is to be killed.
        self.is_cancel_sent = self.is_urgent = False
        #: Workers kept free for steps of this run.
        self.reserved: dict[Demand, Worker] = {}
        #: {demand: why no worker there is can ever meet it, "" if one can}, looked at when the cluster was as numbered.
        self.outlook: dict[Demand, str] = {}
        self.outlook_of = 0
        #: The last end of a backoff, or deadline, that was noted down, and what is kept of the run after its end.
        self.backoff_at = float("-inf")
        self.kept_bytes = 0
        #: The end of the run was seen to: nothing of it is known to workers any more.
        self.is_over = False

    @property
    def is_read(self) -> bool:
        """Whether every client that follows the run was sent all of its facts."""
        end = self.life.facts.end
        return all(subscription.sent >= end for subscription in self.subscriptions)


class Attempt(NamedTuple):
    """A step in the hands of a worker."""

    run: Run
    step: int
    function: int
    lane: int
    estimate_us: int
    size: int
    batch: int
    #: What it takes of its worker beside one slot; None for nothing.
    demand: Demand | None = None


#: Builds an Attempt from one tuple; `Attempt(...)` takes 0.2 µs more, once a step.
new_attempt = partial(tuple.__new__, Attempt)


#: To read a field of many attempts with these takes a third of the time of a loop.
step_of, size_of = itemgetter(1), itemgetter(5)


#: Attempts that are alike, of one run, function, spec and try, and the number of the first; the others follow it.
Booking = tuple[int, Sequence[Attempt]]


def bookings_of(numbered: Sequence[tuple[int, Attempt]]) -> list[Booking]:
    """Groups attempts, each with its number, in which neighbours are alike; rising numbers."""
    bookings: list[tuple[int, list[Attempt]]] = []
    kind_before: tuple[object, ...] | None = None
    for number, attempt in numbered:
        life, step = attempt.run.life, attempt.step
        kind = attempt[0], *attempt[2:5], attempt[6:], life.graph.spec_of[step], life.attempts[step]
        if kind == kind_before and number == bookings[-1][0] + len(bookings[-1][1]):
            bookings[-1][1].append(attempt)
        else:
            bookings.append((number, [attempt]))
        kind_before = kind
    return list(bookings)


class Reservation(NamedTuple):
    """Whom a worker is kept free for."""

    run: Run
    demand: Demand


class Worker:
    """One worker: what it offers and what it holds."""

    __slots__ = (
        "ahead",
        "attempts",
        "batch",
        "clock_offset_us",
        "host",
        "idle_since",
        "is_leaving",
        "is_suspect",
        "in_use",
        "last_outcomes",
        "last_printed",
        "last_seen",
        "mark",
        "marked_at",
        "name",
        "known_functions",
        "left",
        "number",
        "out",
        "out_bytes",
        "peer",
        "pid",
        "queued_us",
        "recalled_at",
        "reservation",
        "resources",
        "slots",
        "stats",
        "target_us",
    )

    def __init__(self, number: int, peer: bytes, name: str, slots: tuple[int, int, int], now: float) -> None:
        self.number = number
        self.peer = peer
        self.name = name
        self.pid = 0
        self.host = ""
        #: Per lane: what may execute at once, what is out, expected µs of it.
        self.slots = slots
        #: What it has beside slots, and what of that is not reserved.
        self.resources: dict[str, int] = {}
        self.left: dict[str, int] = {}
        #: Steps assigned anywhere that count for a limit, shared by all workers of a coordinator.
        self.in_use: Counter[str] = Counter()
        #: Nobody else gets slots of this lane here.
        self.reservation: Reservation | None = None
        self.out = [0, 0, 0]
        self.queued_us = [0, 0, 0]
        #: How much of it there may be for each slot; the last round said so.
        self.target_us = [TARGET_US, TARGET_US, TARGET_US]
        self.out_bytes = 0
        self.attempts: dict[int, Attempt] = {}
        #: Those that get the output of the attempt with the number before, which is held too. They take no slot.
        self.ahead: set[int] = set()
        #: Number of the last batch sent, of the last outcomes committed, and of the last pieces of output told.
        self.batch = 0
        self.last_outcomes = 0
        self.last_printed = 0
        #: The last batch that had been sent a while ago: the worker should have it by now.
        self.mark = 0
        self.marked_at = now
        self.known_functions: set[int] = set()
        self.clock_offset_us = 0
        self.last_seen = now
        #: Since when the lane has had an idle slot.
        self.idle_since = [now, now, now]
        #: When it was last asked for work back.
        self.recalled_at = float("-inf")
        self.is_suspect = False
        self.is_leaving = False
        #: (rss_bytes, cpu_percent, load, slots) of the last heartbeat.
        self.stats: tuple[int, float, float, int] = (0, 0.0, 0.0, 0)

    def room_us(self, lane: int) -> int:
        """Expected work that may still be sent ahead, 0 or less for none."""
        if len(self.attempts) >= MAX_HELD or self.room_bytes(lane) <= 0:
            return 0
        return self.slots[lane] * self.target_us[lane] - self.queued_us[lane]

    def room_of_chain(self, lane: int) -> int:
        """How many attempts may be sent as one chain: a slot's share of what the worker may hold."""
        return min(MAX_HELD // self.slots[lane], MAX_HELD - len(self.attempts))

    def room_bytes(self, lane: int) -> int:
        """Calls and inputs that may still be sent ahead, 0 or less for none."""
        return 1 + AHEAD_BYTES * self.slots[lane] - self.out_bytes

    def has_credit(self, lane: int) -> bool:
        """Whether the worker may be given more in this lane."""
        if self.is_suspect or self.is_leaving:
            return False
        if self.reservation is not None and self.reservation.demand.lane == lane:
            return False
        return self.out[lane] < self.slots[lane] or self.room_us(lane) > 0

    def fits(self, demand: Demand) -> bool:
        """Whether the worker has everything a step of this demand takes, now. Limits are not its business."""
        lane, heavy, slots, needs, _ = demand
        if self.is_suspect or self.is_leaving or not self.slots[lane]:
            return False
        if self.out[lane] + slots > self.slots[lane] and (heavy or slots > 1 or self.room_us(lane) <= 0):
            return False
        left = self.left
        return all(left.get(name, 0) >= amount for name, amount in needs)

    def can_meet(self, demand: Demand) -> bool:
        """Whether the worker would have everything if it held nothing."""
        return not shortage(demand, [self.offer])

    @property
    def offer(self) -> Offer:
        """All that it has."""
        return Offer(self.slots, self.resources)

    def _take(self, demand: Demand, sign: int) -> None:
        """Books (1 for each step) or frees (-1) what steps take beside their first slot."""
        self.out[demand.lane] += sign * (demand.slots - 1)
        for name, amount in demand.needs:
            self.left[name] -= sign * amount
        for name, _ in demand.limits:
            self.in_use[name] += sign

    def add(self, first: int, attempts: Sequence[Attempt], lane: int, demand: Demand | None = None) -> None:
        """Books attempts that are alike, numbered from `first`. 0.15 µs each."""
        if len(attempts) == 1:
            self.attempts[first] = attempt = attempts[0]
            self.queued_us[lane] += attempt[4]
            self.out_bytes += attempt[5]
        else:
            self.attempts.update(zip(range(first, first + len(attempts)), attempts, strict=True))
            self.queued_us[lane] += attempts[0][4] * len(attempts)
            self.out_bytes += sum(map(size_of, attempts))
        self.out[lane] += len(attempts)
        if demand is not None:
            self._take(demand, len(attempts))

    def add_ahead(self, numbers: Iterable[int]) -> None:
        """Notes which of the attempts that were added follow the one before."""
        for number in numbers:
            self.ahead.add(number)
            self.out[self.attempts[number].lane] -= 1

    def follow(self, number: int) -> None:
        """The attempt before this one has succeeded: it is one like others from now on."""
        self.ahead.remove(number)
        self.out[self.attempts[number].lane] += 1

    def free(self, number: int, now: float) -> Attempt | None:
        """Takes an attempt out of the ledger; None if the worker does not hold it."""
        attempt = self.attempts.pop(number, None)
        if attempt is None:
            return None
        _, _, _, lane, estimate_us, size, _, demand = attempt
        self.queued_us[lane] -= estimate_us
        self.out_bytes -= size
        if number in self.ahead:
            self.ahead.remove(number)
            return attempt
        if demand is not None:
            self._take(demand, -1)
        if self.out[lane] == self.slots[lane]:
            self.idle_since[lane] = now
        self.out[lane] -= 1
        return attempt

    def free_alike(self, numbers: Sequence[int], now: float) -> tuple[Run, int, Sequence[int]] | None:
        """As `free` for each, if all are held and of one run, function, lane and demand; 0.2 µs each.

        Returns:
            Run, function and steps; None if nothing was done.
        """
        attempts = self.attempts
        held = list(map(attempts.get, numbers))
        if None in held or len(set(numbers)) < len(numbers):
            return None
        runs, steps, functions, lanes, estimates_us, sizes, _, demands = zip(*held, strict=True)
        if any(column.count(column[0]) < len(column) for column in (runs, functions, lanes)) or any(demands):
            return None
        for number in numbers:
            del attempts[number]
        lane = lanes[0]
        if self.out[lane] - len(numbers) < self.slots[lane] <= self.out[lane]:
            self.idle_since[lane] = now
        self.out[lane] -= len(numbers)
        self.queued_us[lane] -= sum(estimates_us)
        self.out_bytes -= sum(sizes)
        return runs[0], functions[0], steps


class Subscription:
    """One client's reading of one run's facts."""

    __slots__ = (
        "client",
        "cursor",
        "in_flight",
        "last_sent_at",
        "mark",
        "marked_at",
        "run",
        "sent",
        "sent_bytes",
        "told",
    )

    def __init__(self, client: Client, run: Run) -> None:
        self.client = client
        self.run = run
        #: Position of the first fact the client has not confirmed, and of the first not sent.
        self.cursor = 0
        self.sent = 0
        #: What had been sent a while ago: the client should have it by now.
        self.mark = 0
        self.marked_at = float("-inf")
        self.last_sent_at = float("-inf")
        #: (position, bytes) of messages on their way, oldest first.
        self.in_flight: deque[tuple[int, int]] = deque()
        self.sent_bytes = 0
        #: Numbers of workers whose names were sent along; 0 is none.
        self.told = {0}


class Client:
    """One client connection."""

    __slots__ = ("last_seen", "peer", "session", "subscriptions")

    def __init__(self, peer: bytes, session: bytes, now: float) -> None:
        self.peer = peer
        self.session = session
        self.last_seen = now
        self.subscriptions: dict[int, Subscription] = {}
