"""A coordinator core that is driven by hand: what goes in, and everything that comes out."""

from __future__ import annotations

from typing import Any

from helpers import invariants
from helpers.columns import Assigned, AssignRow, Told, assigned, columns_of, told
from helpers.samples import graph_of
from pfw import messages as m
from pfw import outcome as oc
from pfw.failure import FAIL_ERROR, Failure
from pfw.graph import Graph
from pfw.graphs import pack_graph
from pfw.messages import Message
from pfw_coordinator.core import Core
from pfw_coordinator.ledger import Run

HOST = "this host"
EPOCH_S = 1e9
WHY = Failure(FAIL_ERROR, "ValueError", "why").pack()


class CoordinatorRig:
    """One coordinator; `now` is its clock. `turn` gives what is sent to whom: {peer: messages}, and "all", "watch"."""

    def __init__(self, *, is_embedded: bool = False) -> None:
        self.now = 100.0
        self.core = Core(
            python="3.11", version="0", pub="pub", host=HOST, seed=b"seed", epoch_s=EPOCH_S, now=self.now,
            is_embedded=is_embedded,
        )  # fmt: skip
        self.wake_at = self.now
        self._outcomes: dict[str, int] = {}

    def turn(self, at: float | None = None) -> dict[str, list[Any]]:
        """A turn's end: `on_time` and `drain`."""
        self.now = self.now if at is None else at
        self.core.on_time(self.now)
        box = self.core.drain(self.now)
        invariants.check(self.core)
        self.wake_at = box.wake_at
        said: dict[str, list[Any]] = {
            peer.decode(): [_row_by_row(message) for message in messages] for peer, messages in box.messages.items()
        }
        said.update({name: value for name, value in (("all", box.broadcasts), ("watch", box.watch)) if value})
        return said

    def sleep(self, seconds: float) -> None:
        """Turns as a shell makes them, until that time has passed; what is sent meanwhile is not looked at."""
        until = self.now + seconds
        while self.now < until:
            self.turn(min(until, max(self.wake_at, self.now + 0.001)))

    # -- workers ---------------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        cpu: int = 1,
        io: int = 1,
        permits: int = 1,
        host: str = "elsewhere",
        resources: tuple[tuple[str, int], ...] = (),
    ) -> None:
        clock_us = int(self.now * 1e6)
        message = m.Register(m.PROTOCOL, "3.11", "0", name, 77, host, cpu, io, permits, clock_us, resources)
        self.core.on_register(name.encode(), message, self.now)

    def join(self, name: str, cpu: int = 1, io: int = 1, permits: int = 1) -> None:
        """A worker registers, and is welcome."""
        self.register(name, cpu, io, permits)
        self.turn()

    def heartbeat(self, name: str, last_batch: int, *held: int) -> None:
        message = m.Heartbeat(last_batch, 0, held, 1, 2.0, 3.0, 4)
        self.core.on_heartbeat(name.encode(), message, self.now)

    def outcome(
        self, name: str, *attempts: int, code: int = oc.OK, number: int | None = None, us: int = 500_000
    ) -> None:
        """The worker's next outcomes: its attempts all end alike, begun now."""
        number = self._outcomes.get(name, 0) + 1 if number is None else number
        self._outcomes[name] = number
        columns = columns_of([self.row(attempt, code, us) for attempt in attempts])
        self.core.on_outcomes(name.encode(), m.Outcomes(number, columns), self.now)

    def row(self, attempt: int, code: int = oc.OK, us: int = 500_000) -> m.OutcomeRow:
        payload = b"out %d" % attempt if code == oc.OK else b"" if code == oc.NOT_STARTED else WHY
        return (attempt, code, int(self.now * 1e6), us, payload, us // 2, 1 << 20)

    # -- clients ---------------------------------------------------------------------------------------------------

    def hello(self, name: str = "client", session: bytes = b"session") -> None:
        self.core.on_hello(name.encode(), m.Hello(m.PROTOCOL, "3.11", "0", session), self.now)

    def submit(self, graph: Graph | None = None, *, client: str = "client", key: bytes = b"key", **fields: Any) -> Run:
        """Submits a run; gives it as the core knows it."""
        graph = graph or graph_of([()])
        message = m.Submit(key, "name", "parallel", "stop", 0, (), 0, 0, 0, b"", pack_graph(graph))
        self.core.on_submit(client.encode(), message._replace(**fields), self.now)
        return next(run for run in self.core.runs.values() if run.key == key)

    def client(self, name: str = "client") -> None:
        """A client that is welcome."""
        self.hello(name, name.encode())
        self.turn()

    def cursors(self, *rows: tuple[int, int, int], client: str = "client") -> None:
        self.core.on_cursors(client.encode(), m.Cursors(rows), self.now)


def _row_by_row(message: Message) -> Any:
    if isinstance(message, m.Assign):
        return assigned(message)
    return told(message) if isinstance(message, m.Facts) else message


def assign(
    batch: int,
    *rows: AssignRow,
    functions: tuple[tuple[int, bytes], ...] = ((0, b"fn"),),
    runs: tuple[tuple[int, str], ...] = (),
    acked: int = 0,
    last_cancel: int = 0,
    limits: tuple[tuple[int, int, int], ...] = (),
) -> Assigned:
    """A batch as it is expected."""
    return Assigned(batch, last_cancel, acked, functions, runs, rows, limits)


def row(
    attempt: int,
    step: int = 0,
    inputs: tuple[bytes, ...] = (),
    *,
    run: int = 1,
    attempt_of_step: int = 1,
    function: int = 0,
    lane: int = 0,
    us: int = 0,
) -> AssignRow:
    """A row of it; the call is that of `graph_of`."""
    return (attempt, run, step, attempt_of_step, function, lane, us, 2_000, b"call %d" % step, inputs)


def of_kind(messages: list[Message], kind: type[Message | Assigned | Told]) -> list[Any]:
    return [message for message in messages if type(message) is kind]
