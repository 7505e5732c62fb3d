"""Messages between a supervisor and one slot, over a pair of SOCK_SEQPACKET sockets.

A message is a msgpack array. It travels as packets of at most PACKET_BYTES, each after one byte that says whether
more follow. The slot's side blocks; the supervisor's side (`try_send`, `flush`, `recv`) never does.
"""

from __future__ import annotations

import socket
from collections import deque
from math import inf
from typing import Any, Final

import msgpack

from pfw.context import MESSAGE_CHARS
from pfw.errors import ProtocolError

#: Largest part of a message in one packet, in bytes.
PACKET_BYTES: Final = 100 * 1024
#: Largest message, in bytes: a result of 2 GiB and what surrounds it.
MESSAGE_LIMIT: Final = (2 << 30) + (1 << 20)

_LAST: Final = b"\x00"
_MORE: Final = b"\x01"


class Channel:
    """One end of the socket pair between a supervisor and a slot."""

    __slots__ = ("_backlog", "_buffer", "_far_end", "_packer", "_parts", "_socket", "at_end")

    def __init__(self, sock: socket.socket, far_end: socket.socket | None = None) -> None:
        """Take over a connected SEQPACKET socket; the channel closes it.

        Args:
            sock: This side's end.
            far_end: A duplicate of the other side's end, for `recall`. With it the other side's death is not seen here.
        """
        self._socket = sock
        self._far_end = far_end
        self._buffer = memoryview(bytearray(PACKET_BYTES + 1))
        self._parts = bytearray()
        self._backlog: deque[tuple[bytes, memoryview]] = deque()
        #: Kept, because making one takes longer than packing a short message.
        self._packer = msgpack.Packer()
        #: True when the other side is gone and everything it had sent was received.
        self.at_end = False

    def fileno(self) -> int:
        """Return the socket's file descriptor, for a poller."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; what is still in the backlog is lost."""
        self._backlog.clear()
        self._socket.close()
        if self._far_end is not None:
            self._far_end.close()

    def send(self, message: Any) -> None:
        """Send a message (a list or tuple), blocking as long as the other side does not read.

        Raises:
            OSError: The other side is gone.
            ValueError: The message is larger than MESSAGE_LIMIT.
        """
        packed = self._pack(message)
        if len(packed) <= PACKET_BYTES:  # one packet, as nearly all are: half of what a list of packets takes
            self._socket.send(_LAST + packed)
            return
        for packet in _packets(packed):
            self._socket.sendmsg(packet)

    def recv_one(self) -> tuple[Any, ...] | None:
        """Wait for one message and return it, or None when the other side is gone.

        Raises:
            ProtocolError: What came is not a message.
        """
        while True:
            message = self._receive(0)
            if message is not None or self.at_end:
                return message

    @property
    def wants_write(self) -> bool:
        """Whether packets wait in the backlog for the socket to become writable."""
        return bool(self._backlog)

    def try_send(self, message: Any) -> bool:
        """Send a message without blocking; what the socket does not take waits in the backlog.

        Returns:
            Whether everything has been sent. A message to a side that is gone is dropped: `recv` reports its end.

        Raises:
            ValueError: The message is larger than MESSAGE_LIMIT.
        """
        self._backlog.extend(_packets(self._pack(message)))
        return self.flush()

    def flush(self) -> bool:
        """Send what the backlog holds as far as the socket takes it; return whether the backlog is empty."""
        while self._backlog:
            try:
                self._socket.sendmsg(self._backlog[0], (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._backlog.clear()
                break
            self._backlog.popleft()
        return True

    def recv(self) -> list[tuple[Any, ...]]:
        """Return all complete messages that have arrived, without blocking; sets `at_end` at the end.

        Raises:
            ProtocolError: What came is not a message; nothing more can be read from this channel.
        """
        messages: list[tuple[Any, ...]] = []
        while not self.at_end:
            try:
                message = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if message is not None:
                messages.append(message)
        return messages

    def recall(self) -> list[tuple[Any, ...]]:
        """Take back the messages that the other side has not read yet; 2 µs each.

        To be called only while every message on its way is a single packet: of a longer one a part may have been read.
        """
        messages: list[tuple[Any, ...]] = []
        while self._far_end is not None:
            try:
                packet = self._far_end.recv(PACKET_BYTES + 1, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                break
            if not packet:
                break
            messages.append(_unpack(memoryview(packet)[1:]))
        return messages

    def _pack(self, message: Any) -> bytes:
        packed: bytes = self._packer.pack(message)
        if len(packed) > PACKET_BYTES:
            if len(packed) > MESSAGE_LIMIT:
                raise ValueError(f"a message of {len(packed)} bytes is larger than {MESSAGE_LIMIT}")
            self._packer = msgpack.Packer()  # the old one would keep room for as large a message
        return packed

    def _receive(self, flags: int) -> tuple[Any, ...] | None:
        """Receive one packet; return the message that it completes, if it does."""
        try:
            size = self._socket.recv_into(self._buffer, 0, flags)
        except ConnectionResetError:
            # The other side closed while it had packets to read. Those it had sent can still be received after this.
            return None
        if size == 0:
            self.at_end = True
            return None
        piece = self._buffer[1:size]
        if self._buffer[0] == 0 and not self._parts:
            return _unpack(piece)
        if len(self._parts) + size > MESSAGE_LIMIT:
            raise ProtocolError(f"a message of a slot is larger than {MESSAGE_LIMIT} bytes")
        self._parts += piece
        if self._buffer[0]:
            return None
        whole, self._parts = self._parts, bytearray()
        return _unpack(whole)


def connect_pair() -> tuple[Channel, socket.socket]:
    """Return the supervisor's channel and the slot's end of a new pair of sockets."""
    from pfw import host

    ours, theirs = host.seqpacket_pair()
    return Channel(ours, theirs.dup()), theirs


def _packets(whole: bytes) -> list[tuple[bytes, memoryview]]:
    """Cut a packed message into packets without copying it again."""
    packed = memoryview(whole)
    last = (packed.nbytes - 1) // PACKET_BYTES
    return [
        (_LAST if index == last else _MORE, packed[index * PACKET_BYTES : (index + 1) * PACKET_BYTES])
        for index in range(last + 1)
    ]


def _unpack(packed: memoryview | bytearray) -> tuple[Any, ...]:
    try:
        message = msgpack.unpackb(packed, use_list=False, strict_map_key=False)
    except Exception as error:  # msgpack documents several unrelated classes here
        raise ProtocolError(f"a slot's message is not msgpack: {error}") from error
    if not isinstance(message, tuple):
        raise ProtocolError(f"a slot's message is a {type(message).__name__}, not an array")
    return message


def are_notes(message: tuple[Any, ...]) -> bool:
    """Whether a slot's message says what attempts have printed, or how far they are.

    That is of each (attempt, end of file), (attempt, text) or (attempt, (done, total, message)).
    """
    return bool(message) and all(
        type(row) is tuple and len(row) == 2 and type(row[0]) is int
        and (type(row[1]) in (int, bytes) or _is_progress(row[1])) for row in message
    )  # fmt: skip


def _is_progress(what: Any) -> bool:
    if type(what) is not tuple or tuple(map(type, what)) != (float, float, str):
        return False
    return all(0 <= amount < inf for amount in what[:2]) and len(what[2]) <= MESSAGE_CHARS
