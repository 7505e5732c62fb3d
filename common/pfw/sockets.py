"""ZeroMQ sockets as pfw uses them: the options, and how to send and receive without ever blocking.

The one place that knows zmq's errors. Why each option: docs/reliability.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import zmq

from pfw.errors import ConfigError
from pfw.packets import FRAMES_PER_TURN
from pfw.wire import PIECE_BYTES

logger = logging.getLogger(__name__)

#: How long an ended connection still sends what it has said, if the coordinator is there.
LINGER_MS = 1_000

#: As plain ints: an operation on zmq's enums costs as much as the call it is for.
_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
_MORE = _NOBLOCK | int(zmq.SNDMORE)


def make_router(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """The coordinator's socket: every peer by its identity, an unroutable message is an error and not silence."""
    socket = _make(context, zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    _bind(socket, address)
    return socket


def make_publisher(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """Where cancels are published."""
    socket = _make(context, zmq.PUB)
    _bind(socket, address)
    return socket


def make_dealer(context: zmq.Context[zmq.Socket[bytes]], address: str, identity: bytes) -> zmq.Socket[bytes]:
    """A peer's socket to the coordinator. Nothing is queued for a coordinator that is not there (IMMEDIATE)."""
    socket = _make(context, zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    _connect(socket, address)
    return socket


class Dealer:
    """A client's connection over ZeroMQ, with a context of its own."""

    #: Its queues are ZeroMQ's, and it connects again where it can.
    wants_write = at_end = False

    def __init__(self, address: str, identity: bytes) -> None:
        """Connects, in the background.

        Raises:
            ConfigError: The address is none.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket = make_dealer(self._context, address, identity)
        except ConfigError:
            self._context.term()
            raise

    def fileno(self) -> int:
        """As `descriptor`."""
        return descriptor(self._socket)

    def receive_frames(self) -> list[bytes]:
        """What has arrived, at most FRAMES_PER_TURN frames."""
        return [parts[0] for parts in receive(self._socket)]

    def has_input(self) -> bool:
        """As `has_input`."""
        return has_input(self._socket)

    def send_frames(self, frames: Sequence[bytes]) -> bool:
        """As `send`."""
        return send(self._socket, frames)

    def flush(self) -> bool:
        """Nothing waits here."""
        return True

    def close(self) -> None:
        """Ends it; what was sent to a coordinator that is there still goes out, for at most LINGER_MS."""
        self._context.destroy(linger=LINGER_MS)


def make_subscriber(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """A worker's ear for cancels."""
    socket = _make(context, zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    _connect(socket, address)
    return socket


def _make(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, 0),  # credit and windows bound what is on its way, not queues that drop
        (zmq.RCVHWM, 0),
        (zmq.MAXMSGSIZE, PIECE_BYTES + 64),
        (zmq.HANDSHAKE_IVL, 2000),
        (zmq.HEARTBEAT_IVL, 1000),
        (zmq.HEARTBEAT_TIMEOUT, 3000),
        (zmq.HEARTBEAT_TTL, 3000),
        (zmq.RECONNECT_IVL, 10),
        (zmq.RECONNECT_IVL_MAX, 1000),
    ):
        socket.setsockopt(option, value)
    return socket


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(f"cannot listen at {address}: {error.strerror}") from None


def _connect(socket: zmq.Socket[bytes], address: str) -> None:
    if address.startswith("ipc:"):
        # To look for a path costs nothing, and at the start of a local cluster all wait for it: no backoff.
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 0)
    try:
        socket.connect(address)
    except zmq.ZMQError:
        socket.close()
        meant = f"; did you mean tcp://{address}?" if re.fullmatch(r"[^:/\s]+:\d+", address) else ""
        raise ConfigError(f"{address!r} is no address to connect to (tcp://HOST:PORT or ipc://PATH){meant}") from None


def receive(socket: zmq.Socket[bytes]) -> list[list[bytes]]:
    """What has arrived, as lists of frames in order, at most FRAMES_PER_TURN of them."""
    found: list[list[bytes]] = []
    while len(found) < FRAMES_PER_TURN and socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
        try:
            found.append(_receive_one(socket))
        except zmq.Again:
            break
    return found


def _receive_one(socket: zmq.Socket[bytes]) -> list[bytes]:
    # A zmq.Frame knows whether more follow: 2.3 µs where recv_multipart, which asks the socket, takes 3.7 a frame.
    frame = socket.recv(_NOBLOCK, copy=False)
    parts = [frame.bytes]
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
        parts.append(frame.bytes)
    return parts


def descriptor(socket: zmq.Socket[bytes]) -> int:
    """A file descriptor that becomes readable when something changes; ask `has_input` before sleeping on it.

    epoll on it takes 0.4 µs where zmq's own poller takes 2 and more for every further descriptor.
    """
    return int(socket.getsockopt(zmq.FD))


def has_input(socket: zmq.Socket[bytes]) -> bool:
    """Whether `receive` would give something now."""
    return bool(socket.getsockopt(_EVENTS) & _POLLIN)  # type: ignore[operator]


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes], peer: bytes | None = None) -> bool:
    """Sends frames, to one peer on a router; False if the other side is not there (what was to be sent is repeated)."""
    try:
        for frame in frames:
            if peer is not None:
                socket.send(peer, _MORE)
            socket.send(frame, _NOBLOCK)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return False
    return True
