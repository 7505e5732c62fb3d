"""The coordinator's shell, turned by hand, between the client that it belongs to and a worker that lives with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.columns import columns_of
from helpers.samples import graph_of
from pfw import host
from pfw import messages as m
from pfw import outcome as oc
from pfw.columns import unpack_facts
from pfw.facts import FACT_SUCCEEDED
from pfw.graphs import pack_graph
from pfw.packets import PACKET_BYTES, Packets
from pfw.wire import Assembler, encode
from pfw_coordinator.server import Owner, Server

LATER = float("inf")


class HandDriven:
    """A worker that says what it is given to say, and notes down what happens to it."""

    def __init__(self, client: Packets) -> None:
        self.wake_at = 0.0
        #: What `tell` and `act` return next, and whether `act` leaves something for later.
        self.told: list[m.Message] = []
        self.said: list[m.Message] = []
        self.is_due_again = False
        #: What was done to it, and what it was handed.
        self.log: list[str] = []
        self.mail: list[m.Message] = []
        self._client, self._reads, self._writes = client, *os.pipe()

    def fileno(self) -> int:
        return self._reads

    def wake(self) -> None:
        os.write(self._writes, b"x")

    def deliver(self, message: m.Message, now: float) -> None:
        self.log.append(type(message).__name__)
        self.mail.append(message)

    def hear(self, now: float) -> None:
        self.log.append("hear")
        if host.wait_readable(self._reads, 0.0):
            os.read(self._reads, 100)

    def tell(self, now: float) -> list[m.Message]:
        self.log.append("tell")
        told, self.told = self.told, []
        self.wake_at = now if told else self.wake_at
        return told

    def act(self, now: float) -> list[m.Message]:
        self.log.append("act, the client has mail" if host.wait_readable(self._client.fileno(), 0.0) else "act")
        said, self.said = self.said, []
        self.wake_at = now if self.is_due_again else LATER
        return said

    def close(self) -> None:
        os.close(self._reads)
        os.close(self._writes)


class Cluster:
    """A server with its two peers; all have met, and the worker holds attempt 1, the only step of run 1."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = host.seqpacket_pair()
        self.client, self.worker = Packets(ours), HandDriven(Packets(ours))
        owner = Owner(os.getppid(), Packets(theirs))
        self.server = Server(f"ipc://{folder}/c", f"ipc://{folder}/p", worker=self.worker, owner=owner)
        self._assembler = Assembler()
        self.worker.said = [m.Register(m.PROTOCOL, self.server.core.python, "0", "w", 1, "", 1, 0, 0, 0)]
        self.turn()
        self.say(m.Hello(m.PROTOCOL, self.server.core.python, "0", b"session"))
        graph = pack_graph(graph_of([()]))
        self.say(m.Submit(b"key", "name", "parallel", "stop", 0, (0,), 0, 0, 0, b"", graph))
        self.turn()
        assert isinstance(self.worker.mail[-1], m.Assign)
        self.heard()
        self.worker.log.clear()

    def say(self, message: m.Message) -> None:
        self.client.send_frame(encode([message])[0])

    def turn(self) -> None:
        """A turn that does not wait: something is due."""
        assert self.server._turn()

    def heard(self) -> list[m.Message]:
        """What the client is told."""
        return [message for frame in self.client.receive_frames() for message in self._assembler.feed(frame)]

    def succeeded(self) -> list[int]:
        """The steps of which the client is told that they have succeeded."""
        told = [message for message in self.heard() if isinstance(message, m.Facts)]
        rows = [row for message in told for row in unpack_facts(message.numbers, message.payloads)]
        return [row[1] for row in rows if row[0] == FACT_SUCCEEDED]

    def close(self) -> None:
        server = self.server
        server._context.destroy(linger=0)
        server._signals.close()
        if server._line is not None:
            server._line.close()
        self.client.close()
        self.worker.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    found = Cluster(tmp_path)
    try:
        yield found
    finally:
        found.close()
        os.close(signal.set_wakeup_fd(-1))
        for number, handler in handlers.items():
            signal.signal(number, handler)


def outcome_of(attempt: int) -> m.Outcomes:
    return m.Outcomes(1, columns_of([(attempt, oc.OK, int(time.monotonic() * 1e6), 5, b"out", 5, 0)]))


def test_the_client_hears_of_an_outcome_before_the_worker_acts(cluster: Cluster) -> None:
    worker = cluster.worker
    worker.told = [outcome_of(1)]
    worker.wake()
    cluster.turn()
    assert worker.log == ["hear", "tell", "Forget", "Reply", "act, the client has mail"]
    assert cluster.succeeded() == [0]


def test_where_it_tells_nothing_it_acts_first(cluster: Cluster) -> None:
    worker = cluster.worker
    worker.said = [outcome_of(1)]
    worker.wake()
    cluster.turn()
    assert worker.log[:3] == ["hear", "tell", "act"], "the client has nothing yet"
    assert cluster.succeeded() == [0]


def test_what_it_says_as_it_acts_last_is_seen_to_without_a_wait(cluster: Cluster) -> None:
    worker = cluster.worker
    worker.told, worker.said = [m.Notes(((1, 5),))], [outcome_of(1)]
    worker.wake()
    cluster.turn()
    assert worker.log[:2] == ["hear", "tell"]
    assert worker.log[2].startswith("act")
    assert cluster.server._wake_at == 0.0
    cluster.turn()
    assert cluster.succeeded() == [0]


def test_what_it_leaves_for_later_is_due_at_once(cluster: Cluster) -> None:
    worker = cluster.worker
    worker.is_due_again = True
    worker.wake()
    cluster.turn()
    assert worker.log.count("hear") == 1
    worker.is_due_again = False
    cluster.turn()
    assert worker.log.count("hear") == 2, "it had something to do, and what there was to hear came first"
    cluster.server._wake_at = 0.0
    cluster.turn()
    assert worker.log.count("hear") == 2, "nothing is due any more"


def test_a_client_that_reads_slowly_is_waited_for_only_while_something_waits_for_it(cluster: Cluster) -> None:
    server, line, frames = cluster.server, cluster.server._line, 0
    assert line is not None
    while not line.wants_write:
        server._tell_owner([bytes(PACKET_BYTES)])
        frames += 1
    while line.wants_write:  # until what is sent takes all that has waited along
        frames -= len(cluster.client.receive_frames())
        server._tell_owner([b"more"])
        frames += 1
    assert line.fileno() not in [fd for fd, _ in server._poller.poll(0)], "a writable line would wake it for ever"
    assert len(cluster.client.receive_frames()) == frames
