"""A worker core that is driven by hand: what goes in, and everything that comes out."""

from __future__ import annotations

from typing import Any

from helpers import invariants
from helpers.columns import AssignRow, Ended, blocks_of, blocks_of_slot, columns_of, ended, rows_of_slot
from pfw import messages as m
from pfw import outcome as oc
from pfw.graph import LANE_CPU
from pfw_worker.core import Core, Outbox

REGISTER = m.Register(m.PROTOCOL, "3.11", "0", "worker", 1, "host", 1, 2, 5, 0)
OUT = b"out"


class WorkerRig:
    """One worker; `now` is its clock. `turn` gives the fields of the outbox in which something is."""

    def __init__(self, cpu: int = 1, io: int = 2, gpus: int = 0, memory: int = 0) -> None:
        self.now = 100.0
        resources = tuple((name, count) for name, count in (("gpu", gpus), ("memory", memory)) if count)
        self.core = Core(REGISTER._replace(cpu=cpu, io=io, resources=resources), self.now)
        self.wake_at = self.now
        self._batch = self._outcomes = 0

    def turn(self, **at: float) -> dict[str, Any]:
        """A turn's end: `on_time` and `drain`; what is to be done, without what is empty."""
        self.now = at.get("at", self.now)
        self.core.on_time(self.now)
        box = self.core.drain(self.now)
        invariants.check_worker(self.core)
        self.wake_at = box.wake_at
        sent = [(slot, [*message[:2], rows_of_slot(message[2]), *message[3:]]) for slot, message in box.to_slots]
        said = _row_by_row(box.messages)
        found = {name: getattr(box, name) for name in Outbox.__slots__}
        found |= {"to_slots": sent, "messages": said}
        return {name: value for name, value in found.items() if value and name != "wake_at"}

    def tell(self) -> list[Any]:
        """What the coordinator may hear before the turn's end."""
        return _row_by_row(self.core.tell(self.now))

    def join(self) -> WorkerRig:
        """Registers, is welcome, and has its CPU slots ready."""
        self.turn()
        for number in list(self.core.slots):
            self.core.on_slot_ready(number, self.now)
        self.core.on_welcome(m.Welcome(1, 1.0, "pub", 0), self.now)
        self.turn()
        return self

    def assign(
        self, *rows: AssignRow, last_cancel: int = 0, acked: int = 0, functions: tuple[int, ...] = (0,),
        limits: tuple[tuple[int, int, int], ...] = (), needs: tuple[tuple[int, int, int, int], ...] = (),
    ) -> None:  # fmt: skip
        """A batch; functions and runs go along."""
        self._batch += 1
        pickles = tuple((function, b"fn %d" % function) for function in functions)
        runs = tuple((run, f"run-{run}") for run in {row[1] for row in rows})
        blocks = blocks_of(rows, limits, needs)
        self.core.on_assign(m.Assign(self._batch, last_cancel, acked, pickles, runs, blocks), self.now)

    def end(self, slot: int, *attempts: int, code: int = oc.OK) -> None:
        """A slot returns these attempts."""
        self.core.on_slot_outcomes(slot, columns_of([outcome(attempt, code) for attempt in attempts]), self.now)

    def recalled(self, slot: int, *messages: Any) -> None:
        """A slot had not read these yet, and they were taken back."""
        taken = [(*message[:2], blocks_of_slot(message[2])) for message in messages]
        self.core.on_recalled(slot, taken, self.now)

    def outcomes(self, *rows: m.OutcomeRow) -> Ended:
        """The next message of outcomes, as it is expected."""
        self._outcomes += 1
        return Ended(self._outcomes, rows)

    def look(self, **executing: int) -> None:
        """The status pages: slot1=7 is attempt 7 in slot 1, begun at 100."""
        pages = {number: (executing.get(f"slot{number}", 0), 100_000_000) for number in self.core.slots}
        self.core.on_look(pages, self.now)

    def heartbeat(self, *held: int, last_batch: int | None = None, last_cancel: int = 0, slots: int = 1) -> m.Heartbeat:
        """The heartbeat that is expected."""
        batch = self._batch if last_batch is None else last_batch
        return m.Heartbeat(batch, last_cancel, held, 0, 0.0, 0.0, slots)


def _row_by_row(messages: list[m.Message]) -> list[Any]:
    return [ended(message) if isinstance(message, m.Outcomes) else message for message in messages]


def row(
    attempt: int,
    *,
    run: int = 1,
    function: int = 0,
    lane: int = LANE_CPU,
    us: int = 0,
    grace_s: float = 2.0,
) -> AssignRow:
    """One assigned attempt; `us` is its expected duration."""
    return (attempt, run, 0, 1, function, lane, us, int(grace_s * 1000), b"call", ())


def sent(attempt: int, *, run: int = 1, function: int = 0, short: int = 0) -> tuple[Any, ...]:
    """The same attempt as a slot is sent it."""
    return (attempt, run, f"run-{run}", 1, function, short, b"call", ())


def outcome(attempt: int, code: int = oc.OK) -> m.OutcomeRow:
    return (
        attempt,
        code,
        0 if code == oc.NOT_STARTED else 100,
        0 if code == oc.NOT_STARTED else 50,
        OUT if code == oc.OK else b"",
        0 if code == oc.NOT_STARTED else 40,
        0,
    )
