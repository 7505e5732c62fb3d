"""The client's side of a connection, as a pure machine: what was asked, what was read, what has to be said again.

A submission is repeated until it is accepted (its key makes it one run), a fragment until the coordinator counts its
steps, a question until it is answered. Of each run the position of the next fact is known; a gap is simply not taken,
and the next heartbeat tells the coordinator where to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

from pfw import messages as m
from pfw.columns import FACT_BYTES, PackedFacts, unpack_facts
from pfw.errors import (
    ConfigError,
    CoordinatorLostError,
    ProtocolError,
    VersionMismatchError,
)
from pfw.facts import RUN_SUCCEEDED, SUCCEEDED, sendable_reason
from pfw.graph import Graph
from pfw.graphs import pack_graph, unpack_graph
from pfw.messages import Message
from pfw.record import Addition, RunRecord

#: A coordinator that has been silent for so long is lost.
LOST_S = 10.0
#: What is not answered within this time is said again.
REPEAT_S = 2.0
#: How often an unanswered Hello is repeated.
HELLO_S = 0.2
#: So many bytes of facts are confirmed without waiting for the heartbeat.
CONFIRM_BYTES = 2 << 20
#: A turn that starts so much later than planned moves the deadline.
LATE_S = 1.0


class Outbox:
    """What the shell has to do after a turn. No tuple, whose fields take three times as long to read."""

    __slots__ = ("messages", "wake_at")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        #: The next turn starts at the latest then.
        self.wake_at = 0.0


class Session:
    """State of one client. Times are monotonic seconds."""

    def __init__(self, hello: m.Hello, address: str, now: float) -> None:
        self.address = address
        self.is_welcome = self._was_welcome = False
        #: Why the coordinator cannot be used (any more).
        self.error: Exception | None = None
        self.records: dict[int, RunRecord] = {}
        #: {request: Answer, Attached or Rejected}
        self.answers: dict[int, Message] = {}
        #: {request: record} of attached runs, beside the answer.
        self.attached: dict[int, RunRecord] = {}
        #: Called with every piece of what steps of this client's runs print.
        self.on_printed: Callable[[bytes], None] | None = None
        #: Called with the reason when the coordinator cannot be used any more.
        self.on_end: Callable[[Exception], None] | None = None
        self._hello = hello
        self._heard_at = now
        self._wake_at = now
        self._next_heartbeat = now + m.HEARTBEAT_S
        self._next_hello = now
        self._is_unsent = False
        self._submits: dict[bytes, tuple[m.Submit, RunRecord]] = {}
        self._requests: dict[int, Message] = {}
        self._reattached: dict[int, RunRecord] = {}
        self._record_of_key: WeakValueDictionary[bytes, RunRecord] = WeakValueDictionary()
        self._repeat_at = now + REPEAT_S
        self._request_number = 0
        #: Of this turn.
        self._box = Outbox()
        self._cancelled_calls: dict[RunRecord, list[int]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no run of this client is under way."""
        return not self.records and not self._submits

    @property
    def owes_cancels(self) -> bool:
        """Whether a run is to be cancelled that the coordinator has not accepted yet."""
        return self.error is None and any(record.cancel_reason for _, record in self._submits.values())

    # -- what the user asks ----------------------------------------------------------------------------------------

    def submit(self, message: m.Submit, record: RunRecord) -> RunRecord:
        """Asks for a run; returns the record that fills as it goes: the earlier one if the key was used before.

        Raises:
            ConfigError: The key was used before with another workflow.
        """
        known = self._record_of_key.get(message.key)
        if known is not None:
            if known.submitted != record.submitted:
                raise ConfigError("this key was used before with another workflow")
            return known
        self._record_of_key[message.key] = record
        record.on_printed = self.on_printed
        self._submits[message.key] = (message, record)
        if self.is_welcome:
            self._box.messages.append(message)
            self._repeat_at += len(message.graph) // m.BYTES_PER_S
        return record

    def extend(self, record: RunRecord, fragment: Graph, now: float) -> int:
        """Adds steps to an open run; returns the index of the first one."""
        blob, count = pack_graph(fragment), len(fragment.ids)
        return self._extend(record, m.Extend(record.number, len(record.states), blob), count, len(blob), now)

    def extend_like(
        self,
        record: RunRecord,
        like: int,
        ids: tuple[str, ...],
        calls: tuple[bytes, ...],
        inputs: tuple[tuple[int, ...], ...],
        now: float,
    ) -> int:
        """As `extend`, for steps with the function and spec of an earlier one."""
        message = m.ExtendLike(record.number, len(record.states), like, ids, calls, inputs)
        return self._extend(record, message, len(ids), sum(map(len, calls)), now)

    def _extend(self, record: RunRecord, message: m.Extend | m.ExtendLike, count: int, size: int, now: float) -> int:
        first = len(record.states)
        record.states.extend(bytes(count))
        record.unacknowledged.append(Addition(message, first + count, size, now))
        if self._is_known(record):
            self._box.messages.append(message)
        return first

    def cancel(self, record: RunRecord, reason: str, *, is_urgent: bool = False) -> None:
        """Asks for the end of a run, an urgent one by force; repeated until the run has ended."""
        if record.is_finished:
            return
        record.cancel_reason, record.is_urgent = sendable_reason(reason), is_urgent or record.is_urgent
        if self._is_known(record):
            self._box.messages.append(m.CancelRun(record.number, record.cancel_reason, int(record.is_urgent)))

    def cancel_call(self, record: RunRecord, step: int) -> None:
        """Nobody wants what this step of an open run returns; repeated until it has ended."""
        if not record.is_finished and record.states[step] < SUCCEEDED:
            record.unwanted.add(step)
            self._cancelled_calls.setdefault(record, []).append(step)

    def close_run(self, record: RunRecord) -> None:
        """No more steps will come to this open run; repeated until the run has ended."""
        record.is_closing = True
        if self._is_known(record):
            self._repeat_wishes(record)

    def ask(self, make: Callable[[int], Message]) -> int:
        """Sends a Query or Attach, made with its request number, until it is answered in `answers`."""
        self._request_number += 1
        message = self._requests[self._request_number] = make(self._request_number)
        if self.is_welcome:
            self._box.messages.append(message)
        return self._request_number

    def _follow(self, attached: m.Attached) -> None:
        """The facts of an attached run go to its record from now on: they may be the next message."""
        record = self.records.get(attached.run)
        if record is None:
            graph = unpack_graph(attached.graph)
            record = RunRecord(attached.name, attached.mode, graph, attached.meta, version=attached.version)
            record.number, record.run_id = attached.run, attached.run_id
            self.records[attached.run] = record
        self.attached[attached.request] = record

    def forget(self, record: RunRecord) -> None:
        """Nothing more of this run is wanted."""
        self.records.pop(record.number, None)
        self._submits = {key: entry for key, entry in self._submits.items() if entry[1] is not record}

    # -- what the coordinator says ---------------------------------------------------------------------------------

    def on_message(self, message: Message, now: float) -> None:
        """Takes one message.

        Raises:
            ProtocolError: It is not one for clients.
        """
        self._heard_at = now
        match message:
            case m.Facts():
                self._on_facts(message)
            case m.Accepted():
                self._on_accepted(message, now)
            case m.Welcome():
                self._on_welcome(now)
            case m.Refused():
                self._on_refused(message, now)
            case m.Rejected():
                self._on_rejected(message)
            case m.Answer() | m.Attached():
                self._on_answer(message)
            case m.Reply():
                pass
            case _:
                raise ProtocolError(f"{type(message).__name__} is not for a client")

    def _on_facts(self, message: m.Facts) -> None:
        run, position, steps, epoch_s, workers, numbers, payloads = message
        record = self.records.get(run)
        if record is None or not self._is_known(record):
            return
        pending = record.unacknowledged
        while pending and pending[0].end <= steps:
            pending.pop(0)
        known = record.position - position
        if known < 0:
            return
        if record.on_new_facts is None and not known:
            facts: PackedFacts | tuple[m.FactRow, ...] = PackedFacts.checked(numbers, payloads)
        else:
            facts, payloads = unpack_facts(numbers, payloads)[known:], payloads[known:]
        if not facts:
            return
        record.epoch_s = epoch_s
        record.workers.update(workers)
        record.take(facts)
        record.unconfirmed_bytes += FACT_BYTES * len(facts) + sum(map(len, payloads))
        if record.status >= RUN_SUCCEEDED or record.unconfirmed_bytes > CONFIRM_BYTES:
            self._confirm([record])
        if record.status >= RUN_SUCCEEDED:
            self.records.pop(record.number, None)

    def _confirm(self, records: list[RunRecord]) -> None:
        for record in records:
            # What an unacknowledged fragment refers to must not be released before the fragment is there.
            if not record.unacknowledged:
                record.confirmed = record.position
            record.unconfirmed_bytes = 0
        self._box.messages.append(
            m.Cursors(tuple((record.number, record.position, record.confirmed) for record in records))
        )

    def _on_accepted(self, message: m.Accepted, now: float) -> None:
        entry = self._submits.pop(message.key, None)
        if entry is None:
            return
        record = entry[1]
        record.number, record.run_id = message.run, message.run_id
        self.records[message.run] = record
        for addition in record.unacknowledged:
            addition.message, addition.sent_at = addition.message._replace(run=record.number), now
            self._box.messages.append(addition.message)
        self._repeat_wishes(record)

    def _repeat_wishes(self, record: RunRecord) -> None:
        """What was asked of a run may have been lost, or asked before the run had a number."""
        record.unwanted = {step for step in record.unwanted if record.states[step] < SUCCEEDED}
        if record.unwanted:
            self._box.messages.append(m.CancelCalls(record.number, tuple(sorted(record.unwanted))))
        if record.is_closing and not record.unacknowledged:
            self._box.messages.append(m.CloseRun(record.number))
        if record.cancel_reason:
            self._box.messages.append(m.CancelRun(record.number, record.cancel_reason, int(record.is_urgent)))

    def _on_welcome(self, now: float) -> None:
        if self.is_welcome:
            return
        self.is_welcome = self._was_welcome = True
        self._repeat_at = now + REPEAT_S
        self._box.messages.extend(message for message, _ in self._submits.values())
        self._box.messages.extend(self._requests.values())

    def _on_refused(self, message: m.Refused, now: float) -> None:
        """The coordinator does not know this client: it was started anew, or this process slept for long."""
        if not message.again:
            self._fail(VersionMismatchError(message.text))
        elif self.is_welcome:
            self.is_welcome, self._next_hello = False, now
            for record in list(self.records.values()):
                run_id = record.run_id
                number = self.ask(lambda number, run_id=run_id: m.Attach(number, run_id))  # type: ignore[misc]
                self._reattached[number] = record

    def _on_rejected(self, message: m.Rejected) -> None:
        entry = self._submits.pop(message.key, None) if message.key else None
        if entry is not None:
            error = ConfigError if message.kind == m.REFUSED_KEY else ProtocolError
            entry[1].error = error(f"the coordinator at {self.address} does not accept the run: {message.text}")
        elif message.request in self._reattached:
            record = self._reattached.pop(message.request)
            self._requests.pop(message.request, None)
            if self.records.get(record.number) is record:
                del self.records[record.number]
            record.error = CoordinatorLostError(
                f"the coordinator at {self.address} was started anew and has lost the run"
            )
            if record.is_open and self.on_end is not None:
                self.on_end(record.error)
        else:
            self._on_answer(message)

    def _on_answer(self, message: m.Answer | m.Attached | m.Rejected) -> None:
        if self._requests.pop(message.request, None) is None:
            return
        if self._reattached.pop(message.request, None) is None:
            self.answers[message.request] = message
            if isinstance(message, m.Attached) and message.graph:
                self._follow(message)

    # -- time ------------------------------------------------------------------------------------------------------

    def on_time(self, now: float) -> None:
        """Heartbeats, repetitions, the deadline. To be called after everything that had arrived was handed in."""
        if now - self._wake_at > LATE_S:
            self._heard_at += now - self._wake_at
        if self.error is not None:
            return
        if self._was_welcome and now - self._heard_at > LOST_S:
            self._fail(
                CoordinatorLostError(
                    f"nothing was heard of the coordinator at {self.address} for {LOST_S:.0f} s; "
                    f"if it has ended, its runs are lost with it"
                )
            )
        elif not self.is_welcome:
            if now >= self._next_hello or self._is_unsent:
                self._box.messages.append(self._hello)
                self._next_hello = now + HELLO_S
                self._is_unsent = False
        elif now >= self._next_heartbeat:
            self._next_heartbeat = now + m.HEARTBEAT_S
            self._confirm(self._known_runs())
            self._repeat(now)

    def _known_runs(self) -> list[RunRecord]:
        return [record for record in self.records.values() if self._is_known(record)]

    def _is_known(self, record: RunRecord) -> bool:
        """Whether the coordinator has the run: to another one than before its number may be that of another run."""
        return bool(record.number) and not (self._reattached and record in self._reattached.values())

    def _repeat(self, now: float) -> None:
        for record in self._known_runs():
            for addition in record.unacknowledged:
                if now - addition.sent_at >= REPEAT_S + addition.size // m.BYTES_PER_S:
                    addition.sent_at = now
                    self._box.messages.append(addition.message)
        if now >= self._repeat_at:
            size = sum(len(message.graph) for message, _ in self._submits.values())
            self._repeat_at = now + REPEAT_S + size // m.BYTES_PER_S
            self._box.messages.extend(message for message, _ in self._submits.values())
            self._box.messages.extend(self._requests.values())
            for record in self._known_runs():
                self._repeat_wishes(record)

    def on_unsent(self) -> None:
        """Nobody is connected, so nothing could be sent: a connection begins the next turn, in which Hello is said."""
        self._is_unsent = not self.is_welcome

    def on_lost(self, error: Exception) -> None:
        """The cluster is known to be gone."""
        if self.error is None:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = error
        for record in (*self.records.values(), *(record for _, record in self._submits.values())):
            if not record.is_finished:
                record.error = error
        self.records.clear()
        self._submits.clear()
        if self.on_end is not None:
            self.on_end(error)

    def drain(self, now: float) -> Outbox:
        """Everything that is to be sent."""
        if self._cancelled_calls:
            calls, self._cancelled_calls = self._cancelled_calls, {}
            known = [(record.number, tuple(steps)) for record, steps in calls.items() if self._is_known(record)]
            self._box.messages += [m.CancelCalls(number, steps) for number, steps in known]
        box, self._box = self._box, Outbox()
        self._wake_at = self._next_heartbeat if self.is_welcome else self._next_hello
        if self.error is not None:
            self._wake_at = now + LOST_S
        box.wake_at = self._wake_at if self._wake_at > now else now  # noqa: FURB136  `max` takes 0.3 µs
        return box
