"""The worker, as a pure machine: what it holds, which slot executes what, what the coordinator has still to hear.

Theory of operation. An assigned attempt waits in the queue of its lane, goes to a slot in a message of about MESSAGE_US
of expected work, and leaves with an outcome. An outcome stays in the outbox until the coordinator has acknowledged it.
`held` is all three together: what a heartbeat lists. A slot that dies is blamed on the one attempt that executed in it;
what it had not begun goes to another slot under the same attempt.

A cancelled run is remembered until the coordinator says to forget it: assignments of it that come later are handed back
at once. A running attempt of it climbs the ladder: token at 0, StepInterrupt at half of its grace, SIGKILL at grace.
A running attempt whose timeout is over climbs it from StepInterrupt on, and has timed out whatever it returns. An
urgent cancel leaves no grace.

As everywhere `on_*` only changes state, and `drain` is the one way out; `tell` lets outcomes go ahead of it. No clock,
sockets, processes, pickles.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, islice, takewhile
from operator import add, attrgetter
from typing import Any

from pfw import messages as m
from pfw import outcome as oc
from pfw.demand import GPU, MEMORY
from pfw.errors import ClusterError
from pfw.failure import Failure, describe_crash, describe_timeout
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO
from pfw.messages import Message
from pfw.wire import PIECE_BYTES, parts
from pfw_worker.ledger import Held, Slot, SlotBlock, Stop, Unsent
from pfw_worker.memory import Weight, judge, pause_s
from pfw_worker.outfit import Need, Outfit, choose_outfit
from pfw_worker.pieces import Pieces
from pfw_worker.progress import Progress

LANES = (LANE_CPU, LANE_IO, LANE_ASYNC)

#: Expected work in one message to a slot, and what counts as a short step: its outcome may wait for its neighbours'.
MESSAGE_US = 2_000
MESSAGE_BYTES = 48 << 10
#: A slot is sent one more step, shorter than this, while it is expected to be busy for less than this.
AHEAD_US = 10_000
#: A message has half of a slot's share of the queued steps that are so short, but not more expected work than this;
#: their outcomes come back together. Two cores do 9 % more steps of 5 ms than with one in each message.
LONG_MESSAGE_US = 200_000
#: What a slot whose step lasts is expected to be busy for at least: it gets nothing more until that has ended.
UNLOADED_US = 1_000_000
#: Steps behind one that takes so much longer than expected are taken back when another slot idles.
RECALL_AFTER_S = 0.010
MESSAGE_STEPS = 512
#: An attempt that has executed for so long is told of before it ends.
NOTE_AFTER_S = 0.050
#: How often a stop signal is repeated: an exception raised in a destructor is lost.
STOP_EVERY_S = 0.100
#: A slot of the IO lane (or the async process) that has had nothing to do for so long ends.
IDLE_S = 10.0
#: While slots have twice as much queued, outcomes wait for company: for a turn that is taken anyway after COMPANY_S,
#: for one of their own until ALONE_S. A turn takes 0.5 to 0.9 ms of a core that steps want.
COMPANY_S = 0.010
ALONE_S = 0.050
#: A look that is due within so long is had in a turn that is taken anyway.
SLACK_S = 0.020
#: How often a worker introduces itself until it is welcome.
REGISTER_S = 0.1
#: What is not acknowledged after so many heartbeats is sent again.
REPEAT_HEARTBEATS = 2
#: How long no further slot of a lane is started when the machine has refused one.
START_AGAIN_S = 1.0
#: So many slots in a row that die before they are ready: something is wrong with this machine, not with a step.
STARTS_LIMIT = 5

#: A look that comes so much later than planned does not count for what has to end by then.
LATE_S = 1.0

STOP_TOKEN, STOP_INTERRUPT, STOP_TIMEOUT, STOP_UNLOAD = 1, 2, 3, 4


class Outbox:
    """What the shell has to do after a turn. No tuple, whose fields take three times as long to read."""

    __slots__ = (
        "cancelled",
        "clears",
        "ends",
        "forgotten",
        "has_new_numbers",
        "kills",
        "messages",
        "recalls",
        "starts",
        "stops",
        "to_slots",
        "wake_at",
    )

    def __init__(self) -> None:
        #: To the coordinator, one frame.
        self.messages: list[Message] = []
        #: Runs whose steps no slot may begin any more: written to every page, after `has_new_numbers`.
        self.cancelled: list[int] = []
        #: The coordinator is another one: what the pages say of runs is no longer true.
        self.has_new_numbers = False
        #: (slot, [functions, forget, blocks]) or (slot, [[], [], [], stop]) for the async process
        self.to_slots: list[tuple[int, list[Any]]] = []
        #: (slot, attempt, level)
        self.stops: list[tuple[int, int, int]] = []
        self.kills: list[int] = []
        #: Slots whose unread messages are to be taken back (`on_recalled`).
        self.recalls: list[int] = []
        #: (slot, lane): processes to start
        self.starts: list[tuple[int, int]] = []
        #: Slots whose process may end.
        self.ends: list[int] = []
        #: Run ids: cancelled, and nothing of them runs here any more. Their temporary files go before the messages do.
        self.clears: list[str] = []
        #: Run ids: over. Of their temporary files only the folder goes, if it is empty.
        self.forgotten: list[str] = []
        self.wake_at = 0.0


class Core:
    """State of one worker. Times are monotonic seconds, the clock of the slots' start_us too."""

    __slots__ = (
        "_alone",
        "_blocked",
        "_box",
        "_cancelled",
        "_chains",
        "_choosy",
        "_failed_starts",
        "_functions",
        "_in_outbox",
        "_is_unsent",
        "_last_batch",
        "_last_cancel",
        "_memory_bytes",
        "_needs",
        "_next_heartbeat",
        "_next_look",
        "_no_start_before",
        "_noted",
        "_outbox",
        "_outbox_number",
        "_outcomes_since",
        "_pieces",
        "_progress",
        "_queues",
        "_repeat_at",
        "_routine_look",
        "_run_ids",
        "_slot_number",
        "_stops",
        "_uncleared",
        "_unseen_s",
        "_unsent",
        "_wake_at",
        "_wanted_cancel",
        "attempts",
        "gpus",
        "is_leaving",
        "limits",
        "number",
        "pub",
        "refusal",
        "registration",
        "slots",
        "stats",
    )

    def __init__(self, registration: m.Register, now: float) -> None:
        offered = dict(registration.resources)
        self.gpus, self._memory_bytes = offered.get(GPU, 0), offered.get(MEMORY, 0)
        self.registration = registration
        self.limits = (registration.cpu, registration.io, registration.permits)
        self.number, self.pub, self.is_leaving = 0, "", False
        #: A reason why this worker may not take part, from the coordinator.
        self.refusal = ""
        self.attempts: dict[int, Held] = {}
        self.slots: dict[int, Slot] = {}
        self.stats: tuple[int, float, float] = (0, 0.0, 0.0)
        self._queues: tuple[deque[int], ...] = tuple(deque() for _ in LANES)
        #: {queued attempt: those behind it, of which each gets the output of the one before}
        self._chains: dict[int, list[int]] = {}
        #: Attempts that want a slot of their own kind: queued, and all that are held.
        self._choosy: deque[int] = deque()
        self._needs: dict[int, Need] = {}
        self._functions: dict[int, bytes] = {}
        self._run_ids: dict[int, str] = {}
        self._cancelled: set[int] = set()
        #: Blocked were assigned before this worker knew all cancels: nothing of them starts.
        self._stops, self._blocked = dict[int, Stop](), list[int]()
        #: Async attempts whose process died under several of them: each runs alone, so that the guilty one is found.
        self._alone: set[int] = set()
        #: {attempt with a timeout: for how long this worker could not look while it ran, which does not count}
        self._unseen_s: dict[int, float] = {}
        self._noted, self._progress = set[int](), Progress()
        self._last_batch = self._last_cancel = self._wanted_cancel = 0
        self._pieces, self._unsent, self._outcomes_since = Pieces(), Unsent(), now
        self._outbox: dict[int, m.OutcomeColumns] = {}
        self._outbox_number, self._repeat_at = 0, 0.0
        self._in_outbox: set[int] = set()
        self._slot_number = self._failed_starts = 0
        self._no_start_before = [float("-inf")] * len(LANES)
        self._next_heartbeat, self._is_unsent = now, False
        #: When to look next, and when if there is nothing in particular to be looked at.
        self._next_look = self._routine_look = self._wake_at = now
        #: Of this turn.
        self._box = Outbox()
        #: Cancelled runs of which something may still run here.
        self._uncleared: set[int] = set()
        for _ in range(registration.cpu):
            self._start_slot(LANE_CPU, now)

    # -- from the coordinator --------------------------------------------------------------------------------------

    def on_welcome(self, msg: m.Welcome, now: float) -> None:
        """The coordinator takes this worker; with another number it does not know what the worker held before."""
        if msg.number != self.number:
            self._reset()
            self.number, self._last_cancel = msg.number, msg.last_cancel
        self.pub = msg.pub
        self._next_heartbeat = now

    def on_refused(self, msg: m.Refused, now: float) -> None:
        """Not registered (any more): what is held belongs to others now. Or refused for good."""
        if not msg.again:
            self.refusal = msg.text
            return
        if self.number:
            self._reset()
        self._register(now)

    def _reset(self) -> None:
        """Drops everything held: the coordinator that gave it does not know this worker."""
        for number in list(self.attempts):
            self._drop(number)
        for queue in (*self._queues, self._choosy):
            queue.clear()
        self._outbox.clear()
        self._in_outbox.clear()
        self._unsent = Unsent()
        self._pieces.clear()
        self._progress.keep(())
        self._blocked.clear()
        self._chains.clear()
        self._cancelled.clear()
        self._box.cancelled.clear()
        self._uncleared.clear()
        # With another coordinator the same numbers mean other runs, functions and attempts.
        for slot in self.slots.values():
            slot.forget_all()
        for known in (self._functions, self._run_ids, self._needs, self._noted, self._alone, self._unseen_s):
            known.clear()
        self._box.has_new_numbers = True
        self.number = self._last_batch = self._last_cancel = self._wanted_cancel = self._outbox_number = 0

    def _drop(self, number: int) -> None:
        """Forgets an attempt; a slot that has it is killed, since nothing it does may count."""
        del self.attempts[number]
        self._stops.pop(number, None)
        for slot in self.slots.values():
            if number in slot.held:
                self._kill(slot)

    def _kill(self, slot: Slot) -> None:
        if not slot.is_killed:
            slot.is_killed = True
            self._box.kills.append(slot.number)

    def on_unsent(self) -> None:
        """Nobody is connected, so nothing could be sent: a connection begins the next turn, in which it registers."""
        self._is_unsent = not self.number

    def _register(self, now: float) -> None:
        self._is_unsent = False
        self._box.messages.append(self.registration._replace(clock_us=int(now * 1e6)))
        self._next_heartbeat = now + REGISTER_S

    def on_assign(self, msg: m.Assign, now: float) -> None:
        """Takes a batch."""
        if not self.number:
            return
        batch, last_cancel, acked, functions, runs, blocks = msg
        if batch > self._last_batch:
            self._last_batch = batch
        self._on_acked(acked)
        if functions or runs:
            self._functions.update(functions)
            self._run_ids.update(runs)
        is_blocked = last_cancel > self._last_cancel
        if last_cancel > self._wanted_cancel:
            self._wanted_cancel = last_cancel
        head = 0
        for block in blocks:
            if block[1] in self._run_ids and block[3] in self._functions:
                head = self._take(block, head, is_blocked)
            # else told in a batch that was lost; not held, so this is sent again
        if is_blocked:
            self._ask_cancels()

    def _take(self, block: m.AssignBlock, head: int, is_blocked: bool) -> int:
        """Takes one block; returns the last attempt so far that follows no other. 0.3 µs an attempt."""
        first, run, attempt, function, lane, estimate_us, grace_ms, timeout_ms, is_once, need, calls, inputs = block
        sizes = tuple(map(len, calls))
        if inputs:
            sizes = tuple(map(add, sizes, _sizes_of(inputs)))
        held = Held(
            first, run, self._run_ids[run], attempt, function, lane, estimate_us, grace_ms / 1000, timeout_ms / 1000,
            bool(is_once), Need(need[0], need[1], need[2], function) if need else None, calls, inputs, sizes,
        )  # fmt: skip
        numbers: Sequence[int] = range(first, first + len(calls))
        if len(calls) == 1 and first not in self.attempts and first not in self._in_outbox:
            self.attempts[first] = held
        else:
            if not (self.attempts.keys().isdisjoint(numbers) and self._in_outbox.isdisjoint(numbers)):
                numbers = [n for n in numbers if n not in self.attempts and n not in self._in_outbox]
            self.attempts.update(dict.fromkeys(numbers, held))
        if held.need is not None:
            self._needs.update(dict.fromkeys(numbers, held.need))
        if run in self._cancelled or self.is_leaving:
            for number in numbers:
                self._hand_back(number)
            return head
        queue = self._blocked if is_blocked else self._queue_of(held)
        if not (inputs and any(None in row for row in inputs)):
            queue.extend(numbers)
            return numbers[-1] if numbers else head
        for number in numbers:
            if held.follows(number):
                self._chain(head, number)
            else:
                head = number
                queue.append(number)
        return head

    def _chain(self, head: int, number: int) -> None:
        """Puts an attempt that gets the output of the one before behind that one, in the chain of a queued head."""
        chain = self._chains.get(head)
        if head in self.attempts and number - 1 == (chain[-1] if chain else head):
            self._chains.setdefault(head, []).append(number)
        else:
            self._hand_back(number)

    def on_reply(self, msg: m.Reply, now: float) -> None:
        """Outcomes are acknowledged; attempts that are not this worker's (any more) are stopped."""
        self._on_acked(msg.acked)
        if msg.last_cancel > self._last_cancel:
            self._ask_cancels()
        for number in msg.stop:
            if number in self.attempts:
                held = self.attempts[number]
                for queue in (self._queue_of(held), self._blocked):
                    if number in queue:
                        queue.remove(number)
                self._unchain(number)
                self._drop(number)

    def _unchain(self, number: int) -> None:
        """Cuts the chain in which an attempt is queued; what is behind it there goes back."""
        for head, chain in list(self._chains.items()):
            if number == head or number in chain:
                place = 0 if number == head else chain.index(number) + 1
                for other in chain[place:]:
                    self._hand_back(other)
                del chain[max(0, place - 1) :]
                if not chain:
                    del self._chains[head]

    def on_give_back(self, msg: m.GiveBack, now: float) -> None:
        """Attempts wanted elsewhere or no more: those not yet given to a slot are handed back."""
        wanted, queued = set(msg.attempts), set[int]()
        for queue in (*self._queues, self._choosy):
            if found := wanted.intersection(queue):
                queued |= found
                kept = [number for number in queue if number not in found]
                queue.clear()
                queue.extend(kept)
        for number in msg.attempts:
            held = self.attempts.get(number)
            if number in queued:
                self._hand_back(number)
            elif held is not None and msg.is_final:
                self._stops.setdefault(number, Stop(now, held.grace_s))
                self._next_look = now

    def on_forget(self, msg: m.Forget, now: float) -> None:
        """Runs that have ended and functions that nobody uses any more."""
        for run in msg.runs:
            if run in self._run_ids:
                self._box.forgotten.append(self._run_ids.pop(run))
            self._cancelled.discard(run)
        for function in msg.functions:
            self._functions.pop(function, None)
            for slot in self.slots.values():
                if function in slot.functions or function in slot.unread:
                    slot.functions.discard(function)
                    slot.unread.discard(function)
                    slot.to_forget.append(function)

    def on_cancels(self, msg: m.Cancels, now: float) -> None:
        """Cancels after one number and up to another; a gap before them is asked for."""
        for run in msg.runs:
            self._cancel(run, now)
        for run in msg.urgent:
            self._hasten(run, now)
        if msg.after <= self._last_cancel:
            self._last_cancel = max(self._last_cancel, msg.last)
        if max(msg.last, self._wanted_cancel) > self._last_cancel:
            self._ask_cancels()
        elif self._blocked:
            blocked, self._blocked = self._blocked, []
            for number in blocked:
                if number in self.attempts:
                    self._queue_of(self.attempts[number]).append(number)

    def _ask_cancels(self) -> None:
        self._box.messages.append(m.CancelsAsked(self._last_cancel))

    def _cancel(self, run: int, now: float) -> None:
        if run in self._cancelled or not self.number:
            return
        self._cancelled.add(run)
        self._box.cancelled.append(run)
        self._uncleared.add(run)
        for queue in (*self._queues, self._choosy, self._blocked):
            doomed = [number for number in queue if self.attempts[number].run == run]
            for number in doomed:
                queue.remove(number)
                self._hand_back(number)
        for number, held in self.attempts.items():
            if held.run == run:
                self._stops.setdefault(number, Stop(now, held.grace_s))
        self._next_look = now

    def _hasten(self, run: int, now: float) -> None:
        """What still runs of a cancelled run is killed now."""
        for number, stop in self._stops.items():
            if self.attempts[number].run == run:
                self._stops[number] = stop._replace(grace_s=0.0)
        self._next_look = now

    def _hand_back(self, number: int) -> None:
        """Returns an attempt that was not begun, and those that were to follow it."""
        for follower in self._chains.pop(number, ()):
            self._hand_back(follower)
        del self.attempts[number]
        self._stops.pop(number, None)
        self._unsent.add(number, oc.NOT_STARTED, 0, 0, b"", 0, 0)
        self._in_outbox.add(number)

    def _on_acked(self, acked: int) -> None:
        outbox = self._outbox  # in the order of its numbers
        while outbox and (number := next(iter(outbox))) <= acked:
            self._in_outbox.difference_update(outbox.pop(number)[0])

    # -- from the slots --------------------------------------------------------------------------------------------

    def on_slot_ready(self, number: int, now: float) -> None:
        """A slot's process has started."""
        slot = self.slots[number]
        slot.is_ready, slot.idle_since = True, now
        self._failed_starts = 0

    def on_start_refused(self, number: int, now: float) -> None:
        """The machine cannot start another process now; the next try is after START_AGAIN_S."""
        slot = self.slots.pop(number)
        self._no_start_before[slot.lane] = now + START_AGAIN_S

    def on_slot_outcomes(self, number: int, columns: m.OutcomeColumns, now: float) -> None:
        """What a slot returned."""
        slot = self.slots[number]
        numbers, codes, *_ = columns
        attempts = self.attempts
        if slot.unread:
            read = slot.unread.intersection([attempts[n].function for n in numbers if n in attempts])
            slot.functions |= read
            slot.unread -= read
        if any(codes) or self._stops or not self._holds_all(slot, numbers):
            self._on_each_outcome(slot, zip(*columns, strict=True))
        else:
            self._on_all_ok(slot, columns)
        if self._stops or self._noted or self._alone or self._unseen_s:
            self._stops = {n: stop for n, stop in self._stops.items() if n in attempts}
            self._unseen_s = {n: late for n, late in self._unseen_s.items() if n in attempts}
            self._noted.intersection_update(attempts)
            self._alone.intersection_update(attempts)
        if not slot.held:
            slot.expected_us = 0
            slot.has_large = False
            slot.idle_since = now

    def _holds_all(self, slot: Slot, numbers: Sequence[int]) -> bool:
        """Whether these are attempts that the slot has, each named once."""
        if len(numbers) == 1:
            return numbers[0] in slot.held and numbers[0] in self.attempts
        unique = set(numbers)
        return len(unique) == len(numbers) and unique <= slot.held.keys() and unique <= self.attempts.keys()

    def _on_all_ok(self, slot: Slot, columns: m.OutcomeColumns) -> None:
        """Attempts that the slot has and that have returned. 0.4 µs each, where one by one takes 0.8."""
        numbers, held = columns[0], slot.held
        for number in numbers:
            del held[number]
        ended = list(map(self.attempts.pop, numbers))
        first, runs_us = ended[0], columns[3]
        if ended.count(first) == len(ended):  # nearly always
            slot.expected_us -= (first.estimate_us or AHEAD_US) * len(ended)
        else:
            slot.expected_us -= sum([known.estimate_us or AHEAD_US for known in ended])
            runs_us = [run_us for known, run_us in zip(ended, runs_us, strict=True) if known is first]
        self._unsent.extend(columns)
        self._in_outbox.update(numbers)
        matters = is_short(first) and first.estimate_us * MESSAGE_STEPS > MESSAGE_US  # else less changes no message
        if matters and 4 * sum(runs_us) < first.estimate_us * len(runs_us):
            self._expect_less(first.function, first.estimate_us // 4)

    def _expect_less(self, function: int, estimate_us: int) -> None:
        """Short attempts take far less than was expected when they were assigned: slots are sent more of them at once.

        One that had to wait for its core had made 600 µs of 5: the 4,096 assigned then were sent three by three.
        """
        lower = dict[int, Held]()
        saved_us = dict[int, int]()
        for number, held in self.attempts.items():
            if held.function == function and estimate_us < held.estimate_us and is_short(held):
                known = lower.get(held.first)
                if known is None:
                    known = lower[held.first] = held.expecting(max(1, estimate_us))
                saved_us[number] = held.estimate_us - known.estimate_us
                self.attempts[number] = known
        for slot in self.slots.values():
            slot.expected_us -= sum([saved_us.get(number, 0) for number in slot.held])

    def _on_each_outcome(self, slot: Slot, rows: Iterable[m.OutcomeRow]) -> None:
        unbegun = []
        for row in map(self._judged, rows) if self._stops else rows:
            attempt = row[0]
            if slot.held.pop(attempt, None) is None:
                continue
            if row[1] == oc.NOT_STARTED:
                unbegun.append(attempt)
                continue
            known = self.attempts.pop(attempt, None)
            if known is not None:
                slot.expected_us -= known.estimate_us or AHEAD_US
                self._unsent.add(*row)
                self._in_outbox.add(attempt)
        if unbegun:
            self._take_back(slot, unbegun)

    def _take_back(self, slot: Slot, unbegun: Iterable[int]) -> None:
        """Attempts that a slot has not begun go elsewhere."""
        held = [number for number in unbegun if number in self.attempts]
        slot.expected_us -= sum([self.attempts[number].estimate_us or AHEAD_US for number in held])
        self._requeue(held)

    def _judged(self, row: m.OutcomeRow) -> m.OutcomeRow:
        """The outcome with what was done to the attempt: after its timeout nothing that it returned counts."""
        number, code, start_us, run_us, payload, cpu_us, peak_bytes = row
        stop = self._stops.get(number)
        if stop is None or code == oc.NOT_STARTED:
            return row
        if not stop.timeout_s:
            is_interrupted = code == oc.STOPPED and stop.rung == STOP_INTERRUPT
            return (number, oc.INTERRUPTED, start_us, run_us, b"", cpu_us, peak_bytes) if is_interrupted else row
        failure = describe_timeout(stop.timeout_s, self._pieces.end(number), b"" if code == oc.OK else payload)
        return (number, oc.TIMED_OUT, start_us, run_us, failure.pack(), cpu_us, peak_bytes)

    def on_printed(self, attempt: int, text: bytes, now: float) -> None:
        """What an attempt has printed since it was last told; of one that is not held any more it is dropped."""
        held = self.attempts.get(attempt)
        if text and held is not None:
            self._pieces.add(attempt, text, keeps_end=held.timeout_s > 0)

    def on_progress(self, row: m.ProgressRow, now: float) -> None:
        """How far an attempt says that it is; the latest is told with a later look."""
        if row[0] in self.attempts:
            self._progress.add(row, now)

    def on_slot_died(
        self,
        number: int,
        executing: int,
        start_us: int,
        signal: int,
        exit_code: int,
        now: float,
        last_output: str = "",
        peak_bytes: int = 0,
    ) -> None:
        """The slot's process ended and everything it had sent was read.

        Args:
            number: The slot.
            executing: The attempt that executed, from the status page; 0 for none.
            start_us: When that attempt began.
            signal: What killed the process, 0 if it exited.
            exit_code: With which code it exited.
            now: The time.
            last_output: The last that was printed in it.
            peak_bytes: The peak of its memory.
        """
        slot = self.slots.pop(number)
        if slot.is_killed and executing not in self._stops and slot.excess is None:
            executing = 0  # we killed it for another attempt: this one is not to blame
        if not slot.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS_LIMIT:
                raise ClusterError(f"{STARTS_LIMIT} slots in a row died before they were ready (signal {signal})")
        orphans = [n for n in slot.held if n in self.attempts]
        if slot.lane == LANE_ASYNC and len(orphans) == 1 and not slot.is_killed:
            executing, start_us = orphans[0], start_us or int(slot.held[orphans[0]] * 1e6)
        crash = describe_crash(signal or exit_code << 8, last_output, peak_bytes)
        if slot.excess is not None:
            crash = slot.excess.describe()
        self._end_orphans(slot, orphans, executing, start_us, crash, now)
        if slot.lane == LANE_CPU and slot.outfit is None:
            self._start_slot(LANE_CPU, now)

    def _end_orphans(
        self, slot: Slot, orphans: Sequence[int], executing: int, start_us: int, crash: Failure, now: float
    ) -> None:
        """Blames the attempt that executed in a slot that has died; what it had not begun goes elsewhere."""
        # Those before it have ended, and how was not told yet. If nobody wants them any more they end here.
        lost = set(orphans[: orphans.index(executing)] if executing in orphans else ()) & self._stops.keys()
        # In the process of all async steps nobody knows who has printed what.
        theirs = crash if slot.lane == LANE_ASYNC else crash._replace(last_output="")
        unbegun = []
        for orphan in orphans:
            if orphan == executing:
                self._blame(orphan, start_us, crash, now, is_killed=slot.is_killed)
            elif orphan in lost or self._is_spent(orphan, slot.lane):
                is_killed = slot.is_killed or orphan in lost
                self._blame(orphan, int(slot.held[orphan] * 1e6), theirs, now, is_killed=is_killed)
            else:
                unbegun.append(orphan)
        self._requeue(unbegun)
        if slot.lane == LANE_ASYNC:
            self._alone.update(unbegun)

    def _is_spent(self, number: int, lane: int) -> bool:
        """Whether an attempt cannot be begun again, although its slot did not say how it ended."""
        stop = self._stops.get(number)
        if lane == LANE_ASYNC:
            return stop is not None or self.attempts[number].is_once
        return stop is not None and stop.timeout_s > 0

    def _requeue(self, numbers: Iterable[int]) -> None:
        """Attempts that their slot did not end go to another one, if anybody still wants them."""
        heads = list[int]()
        for number in numbers:
            held = self.attempts[number]
            is_unwanted = held.run in self._cancelled or held.run not in self._run_ids or number in self._stops
            if is_unwanted or self.is_leaving:
                self._hand_back(number)
            elif held.follows(number):
                self._chain(heads[-1] if heads else 0, number)
            else:
                heads.append(number)
        for head in reversed(heads):
            self._queue_of(self.attempts[head]).appendleft(head)

    def _blame(self, number: int, start_us: int, crash: Failure, now: float, *, is_killed: bool) -> None:
        run_us = max(0, int(now * 1e6) - start_us)
        self.attempts.pop(number)
        self._in_outbox.add(number)
        stop = self._stops.pop(number, None)
        if stop is not None and stop.timeout_s:
            printed = self._pieces.end(number) or crash.last_output
            code, payload = oc.TIMED_OUT, describe_timeout(stop.timeout_s, printed).pack()
        elif stop is not None and is_killed:
            code, payload = oc.KILLED, b""
        else:
            code, payload = oc.OVER_MEMORY if crash.limit_bytes else oc.CRASHED, crash.pack()
        self._unsent.add(number, code, start_us, run_us, payload, 0, crash.peak_bytes)

    # -- time ------------------------------------------------------------------------------------------------------

    def is_look_due(self, now: float) -> bool:
        """Whether `on_look` wants to see the status pages now."""
        return (now >= self._next_look or now >= self._routine_look - SLACK_S) and bool(self.attempts)

    def on_look(self, executing: Mapping[int, tuple[int, int]], now: float) -> None:
        """What the slots execute: {slot: (attempt or 0, start_us)}. Tells of long ones, ends what is over time."""
        self._next_look = now + (STOP_EVERY_S if self._stops else NOTE_AFTER_S)
        self._routine_look = math.inf if self._stops else self._next_look
        late = now - self._wake_at
        if late > LATE_S:
            self._stops = {number: stop._replace(since=stop.since + late) for number, stop in self._stops.items()}
        notes = []
        for slot in self.slots.values():
            for number, start_us in self._running(slot, executing):
                if number in self.attempts and now - start_us * 1e-6 >= NOTE_AFTER_S:
                    if self._may_note(slot, number):
                        self._noted.add(number)
                        notes.append((number, start_us))
                    self._unload(slot, number)
                if number in self.attempts and self.attempts[number].timeout_s:
                    self._check_timeout(number, start_us * 1e-6, late, now)
                if number in self._stops:
                    self._climb(slot, number, self._stops[number], now)
        if notes:
            self._box.messages.append(m.Notes(tuple(notes)))
        self._progress.keep(self.attempts)
        self._pieces.keep(self.attempts)
        progress = self._progress.take(self._noted, now)
        if progress:
            self._box.messages.append(m.Progress(progress))

    def _running(self, slot: Slot, executing: Mapping[int, tuple[int, int]]) -> list[tuple[int, int]]:
        """(attempt, start_us) of what a slot executes."""
        if slot.lane == LANE_ASYNC:
            return [(number, int(sent * 1e6)) for number, sent in slot.held.items()]
        return [executing[slot.number]] if executing.get(slot.number, (0, 0))[0] in slot.held else []

    def _may_note(self, slot: Slot, number: int) -> bool:
        """Whether it is time to tell that an attempt executes: once, and not before the outcome that it was given."""
        if number in self._noted:
            return False
        if not self.attempts[number].follows(number):
            return True
        # Also an outcome that waits for company leaves after the notes.
        return number == next(iter(slot.held)) and number - 1 not in self._unsent.numbers

    def _unload(self, slot: Slot, number: int) -> None:
        """An attempt lasts: outcomes that wait for it in its slot are told, and what waits behind it goes elsewhere."""
        if slot.lane == LANE_ASYNC or len(slot.held) < 2:
            return
        if number not in self._stops:  # else the slot does so as it is told to stop
            self._box.stops.append((slot.number, number, STOP_UNLOAD))
        slot.expected_us = max(slot.expected_us, UNLOADED_US)
        if not (slot.is_recalled or slot.has_large):
            slot.is_recalled = True
            self._box.recalls.append(slot.number)

    def on_memory(self, private: Mapping[int, int], rest_bytes: int, now: float) -> None:
        """What is held: {slot: bytes that its process holds alone}, and by the worker's other processes."""
        limits = {number: need.memory for number, need in self._needs.items() if number in self.attempts}
        weights = [
            Weight(number, size, max([limits.get(attempt, 0) for attempt in self.slots[number].held], default=0))
            for number, size in private.items()
            if number in self.slots and not self.slots[number].is_killed
        ]
        found = judge(weights, rest_bytes, self._memory_bytes)
        for number, excess in found.excesses.items():
            self.slots[number].excess = excess
            self._kill(self.slots[number])
        self._next_look = min(self._next_look, now + found.pause_s)

    def _check_timeout(self, number: int, started_at: float, late: float, now: float) -> None:
        """Puts an attempt on the ladder once its timeout is over."""
        held = self.attempts[number]
        if late > LATE_S and started_at < self._wake_at:
            self._unseen_s[number] = self._unseen_s.get(number, 0.0) + late
        ends_at = started_at + held.timeout_s + self._unseen_s.get(number, 0.0)
        if now < ends_at:
            self._next_look = min(self._next_look, ends_at)
        elif number not in self._stops:
            self._stops[number] = Stop(now, held.grace_s, held.timeout_s)

    def _climb(self, slot: Slot, number: int, stop: Stop, now: float) -> None:
        if now >= stop.since + stop.grace_s:
            self._kill(slot)
            return
        is_async = slot.lane == LANE_ASYNC
        interrupt_at = stop.since if is_async or stop.timeout_s else stop.since + stop.grace_s / 2
        rung = STOP_INTERRUPT if now >= interrupt_at else STOP_TOKEN
        self._stops[number] = stop._replace(rung=rung)
        # The next rung is climbed when it is due, not at the next repetition.
        due = stop.since + stop.grace_s if rung == STOP_INTERRUPT else interrupt_at
        self._next_look = min(self._next_look, due)
        if is_async:
            self._box.to_slots.append((slot.number, [[], [], [], [number]]))
        else:
            self._box.stops.append((slot.number, number, STOP_TIMEOUT if stop.timeout_s else rung))

    def on_stats(self, rss_bytes: int, cpu_percent: float, load: float, now: float) -> None:
        """What the shell measured of this worker."""
        self.stats = (rss_bytes, cpu_percent, load)

    def on_drain(self, now: float) -> None:
        """No new work; what has not begun goes back, what runs may finish."""
        if not self.is_leaving:
            self.is_leaving = True
            self._box.messages.append(m.Leaving(0))
            for queue in (*self._queues, self._choosy, self._blocked):
                for number in queue:
                    self._hand_back(number)
                queue.clear()

    @property
    def is_drained(self) -> bool:
        """Whether a draining worker holds nothing any more."""
        return self.is_leaving and not self.attempts and not self._outbox and not self._unsent

    def on_time(self, now: float) -> None:
        """Heartbeats, repetitions, slots that have idled long."""
        if now < self._next_heartbeat and not self._is_unsent:
            return
        self._beat(now)
        for _ in range(self.limits[LANE_CPU] - len(self._plain_slots(LANE_CPU))):
            self._start_slot(LANE_CPU, now)
        for slot in list(self.slots.values()):
            is_spare = (slot.lane != LANE_CPU or slot.outfit is not None) and slot.is_ready and not slot.held
            if is_spare and now - slot.idle_since > IDLE_S and not (self._queues[slot.lane] or self._choosy):
                self._end_slot(slot)

    def _beat(self, now: float) -> None:
        if not self.number:
            self._register(now)
            return
        self._next_heartbeat = now + m.HEARTBEAT_S
        if self._outbox and now >= self._repeat_at:
            self._box.messages.extend(m.Outcomes(number, columns) for number, columns in self._outbox.items())
            self._repeat_at = _repeat_time(sum(sum(map(len, columns[4])) for columns in self._outbox.values()), now)
        if self._blocked:
            self._ask_cancels()
        if self.is_leaving:
            self._box.messages.append(m.Leaving(0))
        held = (*self.attempts, *self._in_outbox)
        self._box.messages.append(m.Heartbeat(self._last_batch, self._last_cancel, held, *self.stats, len(self.slots)))

    # -- the way out -----------------------------------------------------------------------------------------------

    def tell(self, now: float) -> list[Message]:
        """What the coordinator may hear ahead of `drain`, which has to follow: outcomes, if nothing waits for slots.

        A call takes 3 % less where its client is told before its worker looks what else there is to do.
        """
        if self._uncleared or self._pieces.rows or self._choosy or any(self._queues):
            return []
        self._tell_outcomes(now)
        messages, self._box.messages = self._box.messages, []
        return messages

    def drain(self, now: float) -> Outbox:
        """Gives queued attempts to slots and returns everything the shell has to do."""
        if self._needs:
            self._dispatch_choosy(now)
        for lane in LANES:
            if self._queues[lane]:
                self._dispatch(lane, now)
        if len(self.attempts) > 1 and not self._queues[LANE_CPU]:
            self._recall(now)
        if self._pieces.rows:  # before the outcomes: the coordinator asks what runs whose attempt it was
            self._box.messages.extend(self._pieces.take())
        self._tell_outcomes(now)
        if self._uncleared:
            self._box.clears = self._clear()
        box, self._box = self._box, Outbox()
        box.wake_at = self._wake_at = self._next_turn(now)
        return box

    def _next_turn(self, now: float) -> float:
        """When it is due at the latest. Compared by hand: `min` and `max` take 0.3 µs each."""
        wake_at = self._next_heartbeat
        if self.attempts:
            look_at = self._next_look
            if look_at < now:
                look_at = now
            if look_at < wake_at:
                wake_at = look_at
        if self._unsent and self._outcomes_since + ALONE_S < wake_at:
            wake_at = self._outcomes_since + ALONE_S
        return wake_at

    def _clear(self) -> list[str]:
        """The cancelled runs of which nothing runs here any more."""
        done = self._uncleared.difference([held.run for held in self.attempts.values()])
        self._uncleared -= done
        return [self._run_ids[run] for run in done if run in self._run_ids]

    def _tell_outcomes(self, now: float) -> None:
        """Sends outcomes on, unless they may wait: slots have more queued than this, and nobody waited long."""
        if not self._unsent:
            self._outcomes_since = now
            return
        queued = sum(map(len, self._queues))
        if 2 * len(self._unsent) <= queued and now - self._outcomes_since < COMPANY_S and self.number:
            return
        columns, self._outcomes_since = self._unsent.take(), now
        if not self.number:
            return
        was_empty, sizes = not self._outbox, list(map(len, columns[4]))
        size = sum(sizes)
        if size <= PIECE_BYTES:
            self._tell(columns)
        else:
            for part in parts(range(len(sizes)), sizes):
                self._tell(_cut(columns, part[0], part[-1] + 1))
        if was_empty:
            self._repeat_at = _repeat_time(size, now)

    def _tell(self, columns: m.OutcomeColumns) -> None:
        self._outbox_number += 1
        self._outbox[self._outbox_number] = columns
        self._box.messages.append(m.Outcomes(self._outbox_number, columns))

    def _dispatch(self, lane: int, now: float) -> None:
        queue = self._queues[lane]
        if len(queue) == 1 and self._dispatch_one(queue, lane, now):
            return
        slots = self._plain_slots(lane)
        if lane == LANE_ASYNC:
            self._dispatch_async(queue, slots, now)
            return
        ready = [slot for slot in slots if slot.is_ready and slot.expected_us <= MESSAGE_US and not slot.is_killed]
        ready.sort(key=_expected_us)
        if self._needs:  # the slots that such attempts take are not for others
            idle = [slot for slot in ready if not slot.held][: self._room(lane)]
            ready = [slot for slot in ready if slot.held or slot in idle]
        for left, slot in zip(range(len(ready), 0, -1), ready, strict=True):
            if not queue:
                return
            if not slot.held or is_short(self.attempts[queue[0]]):
                self._fill(slot, queue, math.ceil(len(queue) / left), now)
        if lane == LANE_IO:
            self._start_io_slots(queue, slots, now)
        else:
            self._dispatch_ahead(queue, slots, now)

    def _dispatch_one(self, queue: deque[int], lane: int, now: float) -> bool:
        """Gives the only attempt that waits to a slot that idles, if one does: there is nothing to plan then."""
        number = queue[0]
        if lane == LANE_ASYNC or self._needs or number in self._chains:
            return False
        for slot in self.slots.values():
            if not slot.held and slot.lane == lane and slot.is_ready and not slot.is_killed and slot.outfit is None:
                queue.popleft()
                self._hand(slot, number, self.attempts[number], now)
                return True
        return False

    def _dispatch_ahead(self, queue: deque[int], slots: list[Slot], now: float) -> None:
        """Gives slots that execute more steps of known length, so that they need not wait for them."""
        for slot in slots:
            if not queue:
                return
            number = queue[0]
            known = self.attempts[number]
            share_us = len(queue) * known.estimate_us // (2 * len(slots))
            message_us = max(MESSAGE_US, min(LONG_MESSAGE_US, share_us))
            busy_us = LONG_MESSAGE_US if message_us >= 2 * known.estimate_us else AHEAD_US
            if self._has_room_ahead(slot, number, known, busy_us):
                self._fill(slot, queue, MESSAGE_STEPS, now, message_us)

    def _has_room_ahead(self, slot: Slot, number: int, known: Held, busy_us: int) -> bool:
        """Whether a slot that executes, for less than so long, may be sent this."""
        return (
            MESSAGE_US < known.estimate_us < AHEAD_US
            and 0 < slot.expected_us < busy_us
            and slot.is_ready
            and not slot.is_killed
            and not slot.has_large
            and known.sizes[number - known.first] < MESSAGE_BYTES
            and known.function in slot.functions
        )

    def _recall(self, now: float) -> None:
        """A slot idles and nothing is queued: another slot's steps that it has not read yet are taken back."""
        if not [slot for slot in self.slots.values() if len(slot.held) > 1]:
            return
        slots = [slot for slot in self._plain_slots(LANE_CPU) if slot.is_ready]
        if all(slot.held for slot in slots) or not self._room(LANE_CPU):
            return
        for slot in slots:
            if len(slot.held) > 1 and not slot.is_recalled and not slot.has_large:
                is_stuck = now - next(iter(slot.held.values())) > RECALL_AFTER_S
                if (is_stuck or slot.expected_us > MESSAGE_US) and self._holds_several(slot):
                    slot.is_recalled = True
                    self._box.recalls.append(slot.number)

    def _holds_several(self, slot: Slot) -> bool:
        """Whether a slot has more than one attempt, or chain of them, that could be anywhere."""
        attempts = self.attempts
        heads = [number for number in slot.held if number in attempts and not attempts[number].follows(number)]
        return len(heads) > 1

    def on_recalled(self, number: int, messages: Iterable[Any], now: float) -> None:
        """What a slot had not read yet, `(functions, forget, blocks)`, was taken back."""
        slot = self.slots[number]
        for _, forget, blocks in messages:
            slot.to_forget.extend(forget)
            unread = [attempt for first, *_, calls, _ in blocks for attempt in range(first, first + len(calls))]
            self._take_back(slot, [attempt for attempt in unread if slot.held.pop(attempt, None) is not None])

    def _hand(self, slot: Slot, number: int, held: Held, now: float) -> None:
        """One message with one attempt."""
        slot.held[number] = now
        slot.expected_us += held.estimate_us or AHEAD_US
        slot.is_recalled = False
        slot.has_large = slot.has_large or held.sizes[number - held.first] >= MESSAGE_BYTES
        block = held.block(number, 1, is_short(held))
        if held.function in slot.functions and not slot.to_forget:
            self._box.to_slots.append((slot.number, [[], [], [block]]))
        else:
            self._send_blocks(slot, [block])

    def _fill(self, slot: Slot, queue: deque[int], share: int, now: float, message_us: int = MESSAGE_US) -> None:
        """One message: a step of unknown or long duration alone, or short ones up to `message_us` of expected work."""
        blocks: list[SlotBlock] = []
        expected, size, left = 0, 0, min(share, MESSAGE_STEPS)
        while queue and left > 0 and size < MESSAGE_BYTES:
            known = self.attempts[queue[0]]
            goes_along = is_short(known) or int(message_us > MESSAGE_US and 0 < known.estimate_us < AHEAD_US)
            if blocks and (not goes_along or expected + known.estimate_us > message_us):
                break
            if queue[0] in self._chains:
                head = queue.popleft()
                numbers = [head, *self._chains.pop(head)]
            else:
                most = min(left, max(1, (message_us - expected) // known.estimate_us)) if goes_along else 1
                numbers = self._take_alike(queue, known, most, MESSAGE_BYTES - size)
            left -= len(numbers)
            slot.held.update(dict.fromkeys(numbers, now))
            for block, like in self._blocks(numbers, goes_along):
                blocks.append(block)
                count, start = len(block[6]), block[0] - like.first
                expected += (like.estimate_us or AHEAD_US) * count
                size += sum(like.sizes[start : start + count])
            if not goes_along:
                break
        slot.expected_us += expected
        slot.is_recalled = False
        slot.has_large = slot.has_large or size >= MESSAGE_BYTES
        self._send_blocks(slot, blocks)

    def _take_alike(self, queue: deque[int], known: Held, most: int, room: int) -> list[int]:
        """Takes attempts from a queue, the first of which is one of `known`, as long as the next one is that too.

        At most so many, and only one that goes beyond `room` bytes.
        """
        first = queue[0]
        start = first - known.first
        sizes = known.sizes[start : start + most]
        if sum(sizes) > room:
            sizes = sizes[: 1 + bisect_left(list(accumulate(sizes)), room)]
        numbers = list(islice(queue, len(sizes)))
        wanted = range(first, first + len(numbers))
        if self._chains or numbers != list(wanted):
            pairs = zip(numbers, wanted, strict=True)
            alike = takewhile(lambda pair: pair[0] == pair[1] and pair[0] not in self._chains, pairs)
            numbers = [number for number, _ in alike]
        for _ in numbers:
            queue.popleft()
        return numbers

    def _blocks(self, numbers: Sequence[int], goes_along: int) -> list[tuple[SlotBlock, Held]]:
        """Attempts with consecutive numbers as a slot is sent them, each block with what they are like."""
        blocks, place = [], 0
        while place < len(numbers):
            first = numbers[place]
            held = self.attempts[first]
            count = min(len(numbers) - place, held.first + len(held.calls) - first)
            blocks.append((held.block(first, count, goes_along or is_short(held)), held))
            place += count
        return blocks

    def _send_blocks(self, slot: Slot, blocks: list[SlotBlock]) -> None:
        # One that was sent is sent again until the slot has answered: its message may be taken back unread.
        unknown = {block[4] for block in blocks} - slot.functions
        functions = [(function, self._functions[function]) for function in unknown]
        slot.has_large = slot.has_large or sum(len(pickled) for _, pickled in functions) >= MESSAGE_BYTES // 2
        if slot.lane == LANE_ASYNC:
            slot.functions |= unknown  # nothing is taken back from it
        else:
            slot.unread |= unknown
        forget, slot.to_forget = slot.to_forget, []
        self._box.to_slots.append((slot.number, [functions, forget, blocks]))

    def _dispatch_async(self, queue: deque[int], slots: list[Slot], now: float) -> None:
        if not slots:
            self._start_slot(LANE_ASYNC, now)
        elif slots[0].is_ready and not slots[0].is_killed and not (self._alone and slots[0].held):
            slot = slots[0]
            blocks: list[SlotBlock] = []
            while queue and not (blocks and self._alone):
                held = self.attempts[queue[0]]
                numbers = self._take_alike(queue, held, 1 if self._alone else len(held.calls), PIECE_BYTES)
                slot.held.update(dict.fromkeys(numbers, now))
                blocks.append(held.block(numbers[0], len(numbers), is_short(held)))
            self._send_blocks(slot, blocks)

    def _start_io_slots(self, queue: deque[int], slots: list[Slot], now: float) -> None:
        """More IO slots for what waits, unless those that run will be through with it within a message's time."""
        starting = sum(not slot.is_ready for slot in slots)
        wanted = sum(1 for number in queue if not is_short(self.attempts[number])) or (0 if slots else 1)
        expected = sum(self.attempts[number].estimate_us for number in queue)
        wanted = max(wanted, expected // (5 * MESSAGE_US))
        most = self.limits[LANE_IO] - len(slots)
        if self._needs:
            most = min(most, self._room(LANE_IO) - sum(not slot.held for slot in slots))
        for _ in range(min(wanted - starting, most)):
            self._start_slot(LANE_IO, now)

    def _start_slot(self, lane: int, now: float, outfit: Outfit | None = None, pledged: int = 0) -> None:
        if now < self._no_start_before[lane]:
            return
        self._slot_number += 1
        self.slots[self._slot_number] = Slot(self._slot_number, lane, now, outfit, pledged)
        self._box.starts.append((self._slot_number, lane))

    def _end_slot(self, slot: Slot) -> None:
        del self.slots[slot.number]
        self._box.ends.append(slot.number)

    # -- attempts that want a slot of their own kind ---------------------------------------------------------------

    def _queue_of(self, held: Held) -> deque[int]:
        return self._queues[held.lane] if held.need is None else self._choosy

    def _plain_slots(self, lane: int) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.lane == lane and slot.outfit is None]

    def _room(self, lane: int) -> int:
        """How many more plain slots may be busy; those that choosy attempts take, queued ones too, may not."""
        claimed = sum(need.slots for number, need in self._needs.items() if self.attempts[number].lane == lane)
        return max(0, self.limits[lane] - claimed - sum(bool(slot.held) for slot in self._plain_slots(lane)))

    def _dispatch_choosy(self, now: float) -> None:
        """Gives each attempt with a need of its own to an idle slot that has it, or starts one."""
        self._needs = {number: need for number, need in self._needs.items() if number in self.attempts}
        for number in list(self._choosy):
            held = self.attempts[number]
            pledged = next((slot for slot in self.slots.values() if slot.pledged == number and not slot.held), None)
            if pledged is not None:
                if pledged.is_ready and not pledged.is_killed:
                    self._give(pledged, number, held, now)
            elif self._is_room_for(held):
                self._find_slot(number, held, now)

    def _is_room_for(self, held: Held) -> bool:
        assert held.need is not None
        lane = held.lane
        busy = sum(bool(slot.held) for slot in self._plain_slots(lane))
        taken = sum(outfit.slots for slot, outfit in self._own_slots() if slot.lane == lane and self._is_taken(slot))
        return busy + taken + held.need.slots <= self.limits[lane]

    def _own_slots(self) -> list[tuple[Slot, Outfit]]:
        return [(slot, slot.outfit) for slot in self.slots.values() if slot.outfit is not None]

    def _is_taken(self, slot: Slot) -> bool:
        return bool(slot.held) or slot.pledged in self.attempts

    def _find_slot(self, number: int, held: Held, now: float) -> None:
        assert held.need is not None
        own = self._own_slots()
        taken = {gpu for slot, outfit in own if self._is_taken(slot) for gpu in outfit.gpus}
        idle = {
            outfit: slot
            for slot, outfit in own
            if slot.lane == held.lane and slot.is_ready and not slot.is_killed and not self._is_taken(slot)
        }
        chosen = choose_outfit(held.need, idle, self.gpus, taken)
        if chosen in idle:
            self._give(idle[chosen], number, held, now)
        elif chosen is not None:
            # An idle process may still hold memory of its GPUs; and not more are kept than there are slots.
            for outfit, slot in idle.items():
                if set(outfit.gpus) & set(chosen.gpus) or len(own) >= self.limits[held.lane]:
                    self._end_slot(slot)
            self._start_slot(held.lane, now, chosen, number)

    def _give(self, slot: Slot, number: int, held: Held, now: float) -> None:
        self._choosy.remove(number)
        slot.pledged = 0
        self._hand(slot, number, held, now)
        if held.need is not None and held.need.memory:
            self._next_look = min(self._next_look, now + pause_s(held.need.memory))


_expected_us = attrgetter("expected_us")


def _sizes_of(rows: Sequence[m.Inputs]) -> list[int]:
    try:
        return [sum(map(len, row)) for row in rows]  # type: ignore[arg-type]
    except TypeError:  # what the attempt before returns is to be put in
        return [sum([len(pickled) for pickled in row if pickled is not None]) for row in rows]


def _repeat_time(size: int, now: float) -> float:
    """When an outbox of so many bytes is sent again if nothing of it is acknowledged."""
    return now + REPEAT_HEARTBEATS * m.HEARTBEAT_S + size // m.BYTES_PER_S


def is_short(held: Held) -> int:
    """1 if outcomes of such attempts may wait for their neighbours', else 0."""
    return 1 if 0 < held.estimate_us <= MESSAGE_US else 0


def _cut(columns: m.OutcomeColumns, start: int, end: int) -> m.OutcomeColumns:
    attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes = columns
    part = slice(start, end)
    return attempts[part], codes[part], starts_us[part], runs_us[part], payloads[part], cpus_us[part], peaks_bytes[part]
