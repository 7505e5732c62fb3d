"""Peers that do not keep to the rules, and frames that no peer of ours sends."""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import msgpack
import zmq

from helpers.waiting import wait_until
from pfw import messages as m
from pfw.wire import Assembler, encode

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NUMBER_OF = {cls: number for number, cls in enumerate(m.MESSAGES)}


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def frame_of(cls: type[m.Message], *fields: Any) -> bytes:
    """A message whose fields nobody has checked."""
    return msgpack.packb([[NUMBER_OF[cls], *fields]])  # type: ignore[no-any-return]


def odd_frames() -> list[tuple[str, bytes]]:
    """Frames that are no messages, each with what is wrong with it."""
    noise = random.Random(7)
    hello = [NUMBER_OF[m.Hello], m.PROTOCOL, PYTHON, "x", b"s"]
    beat = [NUMBER_OF[m.Heartbeat], 0, 0, [], 0, 0.0, 0.0, 0]
    return [
        ("nothing", b""),
        ("random bytes", noise.randbytes(500)),
        ("many random bytes", noise.randbytes(200_000)),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("the byte msgpack never uses", b"\xc1"),
        ("a piece of nothing", b"\xc1\x01" + bytes(8) + b"x"),
        ("a last piece of nothing", b"\xc1\x00" + bytes(8)),
        ("a piece of an unknown kind", b"\xc1\x77" + bytes(20)),
        ("no list", msgpack.packb("hello")),
        ("a map", msgpack.packb({"a": 1})),
        ("no messages in it", msgpack.packb([1, 2])),
        ("an empty message", msgpack.packb([[]])),
        ("an unknown number", msgpack.packb([[len(m.MESSAGES)]])),
        ("a negative number", msgpack.packb([[-1]])),
        ("a bool for a number", msgpack.packb([[True, 0, 0]])),
        ("a missing field", msgpack.packb([hello[:-1]])),
        ("a text for an int", msgpack.packb([[hello[0], "1", *hello[2:]]])),
        ("an int for a text", msgpack.packb([[*hello[:2], 3, *hello[3:]]])),
        ("a bool for an int", msgpack.packb([[hello[0], True, *hello[2:]]])),
        ("a negative int", msgpack.packb([[beat[0], -1, *beat[2:]]])),
        ("2**64 - 1", msgpack.packb([[beat[0], 2**64 - 1, *beat[2:]]])),
        ("NaN", msgpack.packb([[*beat[:5], float("nan"), *beat[6:]]])),
        ("infinity", msgpack.packb([[*beat[:6], float("inf"), *beat[7:]]])),
        ("an ext type", msgpack.packb([[beat[0], msgpack.ExtType(5, b"x"), *beat[2:]]])),
        ("bad UTF-8", msgpack.packb([hello[:3]])[:-1] + b"\xa2\xff\xfe"),
        ("a long text", msgpack.packb([[*hello[:3], "x" * 100_000, hello[4]]])),
        ("trailing bytes", msgpack.packb([hello]) + b"\x00"),
        ("cut short", msgpack.packb([hello])[:-1]),
        ("a declared length of 4 GiB", b"\xdd\xff\xff\xff\xff"),
        ("a text of 4 GiB", b"\x91\xdb\xff\xff\xff\xff"),
        ("deep", nested(5_000)),
        ("a map with a list for a key", b"\x91\x81\x90\x01"),
        ("capacity -1", frame_of(m.Register, 1, PYTHON, "x", "n", 1, "h", -1, 1, 1, 0)),
        ("capacity 10**9", frame_of(m.Register, 1, PYTHON, "x", "n", 1, "h", 10**9, 1, 1, 0)),
        ("capacity '4'", frame_of(m.Register, 1, PYTHON, "x", "n", 1, "h", "4", 1, 1, 0)),
        *((f"outcomes: {what}", frame_of(m.Outcomes, 1, columns)) for what, columns in odd_columns()),
        *((f"a block: {what}", frame_of(m.Assign, 1, 0, 0, [], [], [block])) for what, block in odd_blocks()),
        ("what only a coordinator says", encode([m.Welcome(1, 1.0, "", 0)])[0]),
        ("work for a worker", encode([m.Assign(1, 0, 0, (), (), ())])[0]),
        ("facts for a client", encode([m.Answer(1, b"")])[0]),
    ]


def odd_columns() -> list[tuple[str, Any]]:
    """What might stand in place of columns of outcomes."""
    good = [[1, 2], b"\0\0", [1, 1], [1, 1], [b"", b""], [0, 0], [0, 0]]
    many = [[1] * 20, bytes(20), [1] * 20, [1] * 20, [b""] * 20, [0] * 20, [0] * 20]

    def but(place: int, cell: Any, columns: list[Any] = good) -> list[Any]:
        return [*columns[:place], cell, *columns[place + 1 :]]

    return [
        ("rows", [[1, 0, 0, 0, b"", 0, 0]]),
        ("nothing", []),
        ("six columns", good[:6]),
        ("eight columns", [*good, [0, 0]]),
        ("no rows", [[], b"", [], [], [], [], []]),
        ("a short column", but(3, [1])),
        ("a long column", but(0, [1, 2, 3])),
        ("codes as a list", but(1, [0, 0])),
        ("codes as text", but(1, "\0\0")),
        ("a map", but(0, {1: 2, 3: 4})),
        ("a number", but(2, 1)),
        ("a bool", but(0, [1, True])),
        ("a float", but(5, [0, 0.0])),
        ("a negative number", but(2, [1, -1])),
        ("2**62", but(6, [0, 1 << 62])),
        ("2**64 - 1", but(0, [1, (1 << 64) - 1])),
        ("text for a payload", but(4, [b"", "x"])),
        ("a bool among many", but(0, [*[1] * 19, True], many)),
        ("2**62 among many", but(6, [*[1] * 19, 1 << 62], many)),
        ("text among many", but(4, [*[b""] * 19, "x"], many)),
    ]


def odd_blocks() -> list[tuple[str, Any]]:
    """What might stand in place of a block of attempts."""
    good = [1, 1, 1, 0, 0, 50, 2_000, 0, 0, [], [b"call", b"call"], []]

    def but(place: int, cell: Any) -> list[Any]:
        return [*good[:place], cell, *good[place + 1 :]]

    return [
        ("eleven cells", good[:11]),
        ("thirteen cells", [*good, []]),
        ("no calls", but(10, [])),
        ("text for a call", but(10, [b"call", "call"])),
        ("inputs of another length", but(11, [[b"in"]])),
        ("inputs that are no lists", but(11, [b"in", b"in"])),
        ("text for an input", but(11, [[b"in"], ["in"]])),
        ("a lane that is none", but(4, 3)),
        ("a need of two", but(9, [1, 2])),
        ("a need of floats", but(9, [1.0, 2.0, 3.0])),
        ("a bool", but(8, True)),
        ("a negative number", but(0, -1)),
        ("2**62", but(5, 1 << 62)),
        ("a map", but(10, {1: b"call"})),
        ("a number", 7),
    ]


class Peer:
    """A bare socket to a coordinator, that says whatever the test wants."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 1000
        self._assembler = Assembler()
        self._inbox: deque[m.Message] = deque()
        self._socket.connect(address)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.destroy(linger=1000)

    def send_frames(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def send(self, *messages: m.Message) -> None:
        for frame in encode(messages):
            self._socket.send(frame)

    def expect(self, cls: type[Any], is_wanted: Callable[[Any], object] = bool) -> Any:
        """Waits for a message of this class; drops what comes before."""

        def found() -> Any:
            while self._socket.poll(0):
                for frame in self._socket.recv_multipart():
                    self._inbox.extend(self._assembler.feed(frame))
            while self._inbox:
                message = self._inbox.popleft()
                if isinstance(message, cls) and is_wanted(message):
                    return message
            return None

        return wait_until(found, 20, what=cls.__name__)

    def hello(self, session: bytes = b"hostile") -> None:
        """Becomes a client."""
        self.send(m.Hello(m.PROTOCOL, PYTHON, "x", session))
        self.expect(m.Welcome)

    def register(self, **changes: Any) -> None:
        """Offers itself as a worker."""
        self.send(registration(**changes))
        self.expect(m.Welcome)


def registration(**changes: Any) -> m.Register:
    clock_us = time.monotonic_ns() // 1000
    known = m.Register(m.PROTOCOL, PYTHON, "x", "hostile", 1, "elsewhere", 1, 1, 1, clock_us)
    return known._replace(**changes)


class FakeCoordinator:
    """Two bare sockets that a real worker takes for its coordinator."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router, self.publisher = self._context.socket(zmq.ROUTER), self._context.socket(zmq.PUB)
        ports = [each.bind_to_random_port("tcp://127.0.0.1") for each in (self.router, self.publisher)]
        self.address, self.pub = (f"tcp://127.0.0.1:{port}" for port in ports)
        self.peer = b""

    def close(self) -> None:
        self._context.destroy(linger=0)

    def send_frames(self, *frames: bytes) -> None:
        self.router.send_multipart((self.peer, *frames))

    def send(self, *messages: m.Message) -> None:
        self.send_frames(*encode(messages))

    def received(self) -> Iterator[m.Message]:
        """What the worker has said."""
        while self.router.poll(0):
            self.peer, *frames = self.router.recv_multipart()
            for frame in frames:
                yield from Assembler().feed(frame)

    def expect(self, cls: type[Any]) -> Any:
        def found() -> Any:
            return next((message for message in self.received() if isinstance(message, cls)), None)

        return wait_until(found, 20, what=cls.__name__)


__all__ = ["PYTHON", "FakeCoordinator", "Peer", "frame_of", "odd_frames", "registration"]
