"""Connections that are slow, that break, lose and double frames. Order is kept within a connection, not across one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from sim.timeline import Timeline

Deliver = Callable[[bytes], None]

#: The way to the coordinator and the way back.
UP, DOWN = 0, 1


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is, while it is bad."""

    loss: float = 0.0
    duplication: float = 0.0
    #: Loss of what is published.
    publisher_loss: float = 0.0
    #: Mean delays to draw from, s.
    delays_s: tuple[float, ...] = (0.00005, 0.0002)


CALM = Weather()


class Connection:
    """One peer's way to the coordinator and back."""

    __slots__ = ("deliver", "epoch", "free_at", "is_up", "peer")

    def __init__(self, peer: bytes, to_coordinator: Deliver, to_peer: Deliver) -> None:
        self.peer = peer
        self.deliver = (to_coordinator, to_peer)
        self.is_up = True
        #: Counts the breaks: what was on its way before one may be lost.
        self.epoch = 0
        #: Per direction: nothing sent later arrives before.
        self.free_at = [0.0, 0.0]


class Network:
    """All connections, and what is published."""

    def __init__(self, random: Random, timeline: Timeline) -> None:
        self.weather = CALM
        self._random = random
        self._timeline = timeline
        self._connections: dict[bytes, Connection] = {}
        self._ears: dict[bytes, Deliver] = {}

    def connect(self, peer: bytes, to_coordinator: Deliver, to_peer: Deliver) -> None:
        self._connections[peer] = Connection(peer, to_coordinator, to_peer)

    def listen(self, peer: bytes, deliver: Deliver) -> None:
        """This peer hears from now on what is published."""
        self._ears[peer] = deliver

    def remove(self, peer: bytes) -> None:
        """The peer's process has ended."""
        self._connections.pop(peer, None)
        self._ears.pop(peer, None)

    def send(self, peer: bytes, direction: int, frames: Sequence[bytes]) -> None:
        connection = self._connections.get(peer)
        if connection is None or not connection.is_up:
            return
        for frame in frames:
            if self._random.random() < self.weather.loss:
                continue
            self._dispatch(connection, direction, frame)
            if self._random.random() < self.weather.duplication:
                self._dispatch(connection, direction, frame)

    def publish(self, frame: bytes) -> None:
        for peer, deliver in self._ears.items():
            if self._random.random() >= self.weather.publisher_loss:
                self._timeline.after(self._delay(), self._hear, peer, deliver, frame)

    def _hear(self, peer: bytes, deliver: Deliver, frame: bytes) -> None:
        if peer in self._ears:
            deliver(frame)

    def _delay(self) -> float:
        return self._random.choice(self.weather.delays_s) * (0.5 + self._random.random())

    def _dispatch(self, connection: Connection, direction: int, frame: bytes) -> None:
        at = max(connection.free_at[direction], self._timeline.now + self._delay())
        connection.free_at[direction] = at
        self._timeline.at(at, self._arrive, connection, connection.epoch, direction, frame)

    def _arrive(self, connection: Connection, epoch: int, direction: int, frame: bytes) -> None:
        is_late = epoch != connection.epoch
        if self._connections.get(connection.peer) is not connection:
            return
        # What was on its way when the connection broke is mostly lost; a part of it comes after newer frames.
        if is_late and self._random.random() < 0.7:
            return
        connection.deliver[direction](frame)

    def cut(self, peer: bytes, seconds: float) -> None:
        """Breaks a connection; nothing passes until it is back."""
        connection = self._connections.get(peer)
        if connection is not None and connection.is_up:
            connection.is_up = False
            connection.epoch += 1
            self._timeline.after(seconds, self._restore, connection)

    def cut_all(self, seconds: float) -> None:
        for peer in list(self._connections):
            self.cut(peer, seconds)

    def _restore(self, connection: Connection) -> None:
        connection.is_up = True
        connection.free_at = [self._timeline.now, self._timeline.now]

    @property
    def peers(self) -> list[bytes]:
        return list(self._connections)
