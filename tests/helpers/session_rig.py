"""A session that is driven by hand: what goes in, and everything that comes out."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.samples import graph_of
from pfw import messages as m
from pfw.columns import pack_facts
from pfw.facts import FACT_FINISHED, FACT_RUN_STARTED, RUN_SUCCEEDED
from pfw.graphs import pack_graph
from pfw.record import RunRecord
from pfw.session import Session

HELLO = m.Hello(m.PROTOCOL, "3.11", "0", b"session")
GRAPH = graph_of([(), (), ()])


class SessionRig:
    """One session; `now` is its clock. `turn` gives what is sent."""

    def __init__(self) -> None:
        self.now = 100.0
        self.session = Session(HELLO, "here", self.now)
        self.wake_at = self.now
        self.news: list[Sequence[m.FactRow]] = []
        self.ends: list[Exception] = []
        self.session.on_end = self.ends.append

    def turn(self, at: float | None = None) -> list[m.Message]:
        self.now = self.now if at is None else at
        self.session.on_time(self.now)
        box = self.session.drain(self.now)
        assert box.wake_at >= self.now
        self.wake_at = box.wake_at
        return box.messages

    def hear(self, *messages: m.Message) -> None:
        for message in messages:
            self.session.on_message(message, self.now)

    def sleep(self, seconds: float) -> list[m.Message]:
        """Turns as a shell makes them; what is said meanwhile."""
        until, said = self.now + seconds, []
        while self.now < until:
            said += self.turn(min(until, max(self.wake_at, self.now + 0.001)))
        return said

    def join(self) -> SessionRig:
        self.turn()
        self.hear(m.Welcome(1, 1.0, "", 0))
        self.turn()
        return self

    def start(self, *, is_open: bool = False, number: int = 1, hears: bool = False) -> RunRecord:
        """A run that was submitted and accepted; `news` gets its facts if somebody hears them."""
        key = b"key %d" % number
        record = RunRecord("name", "parallel", graph_of([]) if is_open else GRAPH, None, is_open=is_open)
        record.on_new_facts = self.news.append if hears else None
        self.session.submit(submission(key), record)
        self.turn()
        self.hear(m.Accepted(key, number, f"run-{number}"))
        self.turn()
        return record


def submission(key: bytes = b"key") -> m.Submit:
    return m.Submit(key, "name", "parallel", "stop", 0, (), 0, 0, 0, b"", pack_graph(GRAPH))


def fact(kind: int, step: int = 0, *, attempt: int = 1, payload: bytes = b"") -> m.FactRow:
    return (kind, step, 1.0, attempt, 1, 0.5, 0.75, 0.25, payload, 150_000, 1 << 20)


def facts(position: int, *rows: m.FactRow, run: int = 1, steps: int = 3) -> m.Facts:
    return m.Facts(run, position, steps, 5.0, ((1, "worker"),), *pack_facts(rows))


STARTED, ENDED = fact(FACT_RUN_STARTED), fact(FACT_FINISHED, attempt=RUN_SUCCEEDED)
