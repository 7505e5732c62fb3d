"""The shells of a world: the loop of server.py, agent.py and link.py without sockets and processes.

Each takes what has arrived, hands it to its core, drains once and does what the outbox says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from helpers import invariants
from pfw import messages as m
from pfw import outcome as oc
from pfw.columns import unpack_facts
from pfw.errors import ProtocolError
from pfw.graph import LANE_ASYNC
from pfw.record import RunRecord
from pfw.session import Session
from pfw.wire import Assembler, encode
from pfw_coordinator.core import Core as CoordinatorCore
from pfw_worker.core import STOP_TIMEOUT
from pfw_worker.core import Core as WorkerCore
from sim.network import DOWN, UP
from sim.oracle import require
from sim.slots import SimAsyncSlot, SimSlot

if TYPE_CHECKING:
    from sim.world import World

PYTHON = "3.11"
#: A shell sleeps in whole milliseconds, one more than asked for.
_TICK_S = 0.0005
_INVARIANTS_EVERY = 1


class Actor:
    """One process: an inbox, and a turn when something is in it or a time has come."""

    def __init__(self, world: World, name: str, offset_s: float) -> None:
        self.world, self.name = world, name
        self.is_dead = False
        self._offset_s = offset_s
        self._paused_until = 0.0
        self._inbox: list[tuple[Any, ...]] = []
        self._turn_at = float("inf")
        self.turns = 0

    def clock(self) -> float:
        """This process's monotonic clock."""
        return self.world.timeline.now + self._offset_s

    def clock_us(self) -> int:
        return int(self.clock() * 1e6)

    def receive(self, *item: Any) -> None:
        """Something arrives; the process wakes up a moment later."""
        if not self.is_dead:
            self._inbox.append(item)
            self.wake(self.world.timeline.now + self.world.random.choice((0.0, 0.00002, 0.0003)))

    def wake(self, at: float) -> None:
        at = max(at, self._paused_until)
        if at < self._turn_at:
            self._turn_at = at
            self.world.timeline.at(at, self._run, at)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, or a machine that is busy: nothing is read and nothing is said for a while."""
        self._paused_until = self.world.timeline.now + seconds
        self._turn_at = float("inf")
        self.wake(self._paused_until)

    def _run(self, at: float) -> None:
        if self.is_dead or at != self._turn_at:
            return
        self._turn_at = float("inf")
        self.turns += 1
        inbox, self._inbox = self._inbox, []
        now = self.clock()
        wake_at = self.turn(inbox, now)
        self.wake(max(wake_at, now + _TICK_S) - self._offset_s)
        self.world.note(self.name, "turn", len(inbox))

    def turn(self, inbox: list[tuple[Any, ...]], now: float) -> float:
        """Returns when the next turn starts at the latest, on the process's clock."""
        raise NotImplementedError


class SimCoordinator(Actor):
    """The coordinator daemon."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "coordinator", 0.0)
        self.starts = 0
        self._last_attempt = 0
        self._start()

    def _start(self) -> None:
        self.starts += 1
        self.core = CoordinatorCore(
            python=PYTHON, version="0", pub="pub", host="host-0", seed=b"%d-%d" % (self.world.seed, self.starts),
            epoch_s=5e8, now=self.clock(), is_embedded=self.world.is_embedded,
        )  # fmt: skip
        self._assemblers: dict[bytes, Assembler] = {}
        self._handlers = handlers_of(self.core)
        self._last_attempt = 0
        self.wake(self.world.timeline.now)

    def restart(self) -> None:
        """kill -9 and a new start: everything is forgotten."""
        self.world.network.cut_all(0.02)
        self._inbox.clear()
        self._start()

    def turn(self, inbox: list[tuple[Any, ...]], now: float) -> float:
        core = self.core
        for kind, peer, *rest in inbox:
            if kind == "frame":
                self._receive(peer, rest[0], now)
            else:
                core.on_peer_died(peer, now)
        core.on_time(now)
        box = core.drain(now)
        self.world.oracle.on_coordinator_turn(core)
        if self.turns % _INVARIANTS_EVERY == 0:
            invariants.check(core)
        for message in box.broadcasts:
            for frame in encode([message]):
                self.world.network.publish(frame)
        for peer, messages in box.messages.items():
            self.world.note("coordinator", "to", (peer, messages))
            self.world.network.send(peer, DOWN, encode(messages))
        for peer, pid in box.watch:
            self.world.watch(peer, pid)
        return box.wake_at

    def _receive(self, peer: bytes, frame: bytes, now: float) -> None:
        try:
            for message in self._assemblers.setdefault(peer, Assembler()).feed(frame):
                self._handlers[type(message)](peer, message, now)
        except ProtocolError as error:
            self.world.on_odd_frame(self.name, error)


def handlers_of(core: CoordinatorCore) -> dict[type, Callable[[bytes, Any, float], None]]:
    """What the coordinator's core does with each message."""
    return {
        m.Outcomes: core.on_outcomes, m.Heartbeat: core.on_heartbeat, m.Cursors: core.on_cursors,
        m.Submit: core.on_submit, m.Extend: core.on_extend, m.ExtendLike: core.on_extend_like,
        m.Notes: core.on_notes, m.Printed: core.on_printed, m.Progress: core.on_progress,
        m.Register: core.on_register, m.Hello: core.on_hello, m.CancelRun: core.on_cancel_run,
        m.CloseRun: core.on_close_run, m.Attach: core.on_attach, m.Query: core.on_query,
        m.CancelCalls: core.on_cancel_calls, m.CancelsAsked: core.on_cancels_asked, m.Leaving: core.on_leaving,
    }  # fmt: skip


class SimWorker(Actor):
    """A worker daemon with its slots; dies with all of them."""

    def __init__(
        self, world: World, number: int, incarnation: int, slots: tuple[int, int, int], resources: dict[str, int]
    ) -> None:
        # The clocks of one machine are one.
        offset_s = world.random.choice((77.7, 123_456.789)) if number % 2 else 0.0
        super().__init__(world, f"worker-{number}.{incarnation}", offset_s)
        self.number, self.limits = number, slots
        self.peer = f"w{number}.{incarnation}".encode()
        self.pid = 1_000 * (number + 1) + incarnation
        host = f"host-{number % 2}"
        registration = m.Register(
            m.PROTOCOL, PYTHON, "0", self.name, self.pid, host, *slots, self.clock_us(), tuple(resources.items())
        )
        self.core = WorkerCore(registration, self.clock())
        self.slots: dict[int, SimSlot] = {}
        #: Attempts that were told that their time is over.
        self.timed_out: set[int] = set()
        #: Runs whose cancel has been acted upon here.
        self.cancelled: set[int] = set()
        self.is_draining = False
        self._drain_until = float("inf")
        self._assembler, self._ear = Assembler(), Assembler()
        world.network.connect(self.peer, lambda frame: world.to_coordinator(self.peer, frame), self._on_frame)
        self.wake(world.timeline.now)

    def _on_frame(self, frame: bytes) -> None:
        self.receive("frame", self._assembler, frame)

    def on_slot(self, number: int, kind: str, payload: Any) -> None:
        """A slot says something, or has died."""
        self.receive(kind, number, payload)

    def turn(self, inbox: list[tuple[Any, ...]], now: float) -> float:
        core = self.core
        for kind, source, payload in inbox:
            if kind == "frame":
                self._receive(source, payload, now)
            elif kind == "outcomes":
                core.on_slot_outcomes(source, payload, now)
            elif kind == "ready":
                self._on_ready(source, now)
            elif kind == "printed":
                core.on_printed(*payload, now)
            else:
                self._on_death(source, payload, now)
        if core.is_look_due(now):
            for number, (attempt, _) in [(number, slot.page) for number, slot in self.slots.items()]:
                core.on_progress((attempt, float(number), now, ""), now)
            core.on_look({number: slot.page for number, slot in self.slots.items()}, now)
        if self.turns % 3:  # as one that lives with its coordinator, whose slots have to wait
            self._say(core.tell(now))
        core.on_time(now)
        box = core.drain(now)
        if self.turns % _INVARIANTS_EVERY == 0:
            invariants.check_worker(core)
        self._perform(box)
        self._end_of_drain(now)
        return box.wake_at

    def _on_ready(self, number: int, now: float) -> None:
        if number in self.core.slots:
            self.core.on_slot_ready(number, now)

    def _on_death(self, number: int, death: Any, now: float) -> None:
        (executing, start_us), signal, exit_code = death
        del self.slots[number]
        if number in self.core.slots:
            self.core.on_slot_died(number, executing, start_us, signal, exit_code, now)

    def _receive(self, assembler: Assembler, frame: bytes, now: float) -> None:
        core = self.core
        on: dict[type, Callable[[Any, float], None]] = {
            m.Assign: core.on_assign, m.Reply: core.on_reply, m.Cancels: core.on_cancels, m.Forget: core.on_forget,
            m.GiveBack: core.on_give_back, m.Welcome: self._on_welcome, m.Refused: core.on_refused,
        }  # fmt: skip
        try:
            for message in assembler.feed(frame):
                on[type(message)](message, now)
        except ProtocolError as error:
            self.world.on_odd_frame(self.name, error)

    def _on_welcome(self, message: m.Welcome, now: float) -> None:
        self.core.on_welcome(message, now)
        self.world.network.listen(self.peer, lambda frame: self.receive("frame", self._ear, frame))

    def _perform(self, box: Any) -> None:
        for number, lane in box.starts:
            self.slots[number] = (SimAsyncSlot if lane == LANE_ASYNC else SimSlot)(self, number)
        self._write_pages(box)
        for number, message in box.to_slots:
            late = [block[0] for block in message[2] if block[1] in self.cancelled]
            require(not late, self.name, "gives attempts of a cancelled run to a slot:", late)
            self.slots[number].on_message(message)
        for number, attempt, level in box.stops:
            self.slots[number].on_stop(attempt, level)
        self.timed_out.update(attempt for _, attempt, level in box.stops if level == STOP_TIMEOUT)
        if box.kills:
            self.world.note(self.name, "kills", box.kills)
        for number in box.recalls:
            messages = self.slots[number].recall()
            self.world.note(self.name, "recalls", (number, messages))
            if messages:
                self.core.on_recalled(number, messages, self.clock())
                self.wake(self.world.timeline.now)
        for number in (*box.kills, *box.ends):
            if number in self.slots:
                self.slots[number].kill()
        self._require_clear(box.clears)
        self._say(box.messages)

    def _say(self, messages: list[m.Message]) -> None:
        if messages:
            self.world.note(self.name, "says", messages)
            self._check_timeouts(messages)
            self.world.network.send(self.peer, UP, encode(messages))

    def _require_clear(self, clears: list[str]) -> None:
        for run_id in clears:
            at_work = [number for number, slot in self.slots.items() if slot.is_alive and run_id in slot.runs()]
            require(not at_work, self.name, "clears away what steps of run", run_id, "use in", at_work)

    def _check_timeouts(self, messages: list[m.Message]) -> None:
        """Nothing counts that a step returns once it was told that its time is over."""
        for message in messages:
            numbers, codes, *_ = message.columns if isinstance(message, m.Outcomes) else ((), b"")
            for number, code in zip(numbers, codes, strict=True):
                is_late = number in self.timed_out and code not in (oc.TIMED_OUT, oc.NOT_STARTED)
                require(not is_late, self.name, "reports", code, "of an attempt that has timed out")

    def _write_pages(self, box: Any) -> None:
        """What the status pages say of cancelled runs; a slot that is started later does not know of them."""
        if box.has_new_numbers:
            self.cancelled.clear()
            self.timed_out.clear()
            for slot in self.slots.values():
                slot.cancelled.clear()
        for run in box.cancelled:
            self.cancelled.add(run)
            for slot in self.slots.values():
                slot.cancelled.add(run)

    def drain(self) -> None:
        """SIGTERM."""
        if not self.is_dead and not self.is_draining:
            self.is_draining, self._drain_until = True, self.clock() + 20.0
            self.core.on_drain(self.clock())
            self.wake(self.world.timeline.now)

    def _end_of_drain(self, now: float) -> None:
        if self.is_draining and (self.core.is_drained or now >= self._drain_until):
            self.world.network.send(self.peer, UP, encode([m.Leaving(1)]))
            self.world.timeline.after(0.2, self.world.network.remove, self.peer)
            self._stop()

    def die(self) -> None:
        """kill -9 of the whole worker."""
        self._stop()
        self.world.network.remove(self.peer)

    def _stop(self) -> None:
        self.is_dead = True
        for slot in self.slots.values():
            slot.is_alive = False


class SimClient(Actor):
    """A client process; its runs are the records it follows."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"client-{number}", world.random.choice((0.0, 55.5)))
        self.peer = b"c%d" % number
        hello = m.Hello(m.PROTOCOL, PYTHON, "0", b"session-%d" % number)
        self.session = Session(hello, "sim", self.clock())
        self._assembler = Assembler()
        world.network.connect(self.peer, lambda frame: world.to_coordinator(self.peer, frame), self._on_frame)
        self.wake(world.timeline.now)

    def _on_frame(self, frame: bytes) -> None:
        self.receive("frame", frame)

    def call(self, action: Callable[[Session, float], object]) -> None:
        """Does something with the session as soon as the process runs, if it still has its cluster then."""
        if not self.is_dead:
            self._inbox.append(("call", action))
            self.wake(self.world.timeline.now)

    def turn(self, inbox: list[tuple[Any, ...]], now: float) -> float:
        session = self.session
        for kind, item in inbox:
            if kind == "frame":
                self._receive(item, now)
            elif session.error is None:
                item(session, now)
        session.on_time(now)
        box = session.drain(now)
        if box.messages:
            self.world.note(self.name, "says", box.messages)
            self.world.network.send(self.peer, UP, encode(box.messages))
        return box.wake_at

    def _receive(self, frame: bytes, now: float) -> None:
        try:
            for message in self._assembler.feed(frame):
                if isinstance(message, m.Facts) and message.run in self.session.records:
                    self._hear(message, self.session.records[message.run], now)
                else:
                    self.session.on_message(message, now)
        except ProtocolError as error:
            self.world.on_odd_frame(self.name, error)

    def _hear(self, message: m.Facts, record: RunRecord, now: float) -> None:
        known = record.position
        self.session.on_message(message, now)
        if record.position > known:
            rows = unpack_facts(message.numbers, message.payloads)[known - message.position :]
            self.world.oracle.on_facts(record, rows)

    def die(self) -> None:
        """The process ends without a word."""
        self.is_dead = True
        self.world.network.remove(self.peer)
