"""Messages between a supervisor and one slot: msgpack arrays, each a frame on a pair of sockets.

The slot's side blocks; the supervisor's side (`try_send`, `flush`, `recv`) never does.
"""

from __future__ import annotations

import socket
import sys
from math import inf
from typing import Any

import msgpack

from pfw.context import MESSAGE_CHARS
from pfw.errors import ProtocolError
from pfw.packets import FRAME_LIMIT, PACKET_BYTES, Packets


class Channel(Packets):
    """One end of the socket pair between a supervisor and a slot."""

    __slots__ = ("_far_end", "_packer")

    def __init__(self, sock: socket.socket, far_end: socket.socket | None = None) -> None:
        """Take over a connected SEQPACKET socket; the channel closes it.

        Args:
            sock: This side's end.
            far_end: A duplicate of the other side's end, for `recall`. With it the other side's death is not seen here.
        """
        super().__init__(sock)
        self._far_end = far_end
        #: Kept, because making one takes longer than packing a short message.
        self._packer = msgpack.Packer()

    def close(self) -> None:
        """Close the socket; what is still in the backlog is lost."""
        super().close()
        if self._far_end is not None:
            self._far_end.close()

    def send(self, message: Any) -> None:
        """Send a message (a list or tuple), blocking as long as the other side does not read.

        Raises:
            OSError: The other side is gone.
            ValueError: The message is larger than FRAME_LIMIT.
        """
        self.send_frame(self._pack(message))

    def try_send(self, message: Any) -> bool:
        """Send a message without blocking; what the socket does not take waits in the backlog.

        Returns:
            Whether everything has been sent. A message to a side that is gone is dropped: `recv` reports its end.

        Raises:
            ValueError: The message is larger than FRAME_LIMIT.
        """
        return self.try_send_frame(self._pack(message))

    def recv_one(self) -> tuple[Any, ...] | None:
        """Wait for one message and return it, or None when the other side is gone.

        Raises:
            ProtocolError: What came is not a message.
        """
        while True:
            frame = self.receive_frame(0)
            if frame is not None:
                return _unpack(frame)
            if self.at_end:
                return None

    def recv(self) -> list[tuple[Any, ...]]:
        """Return all complete messages that have arrived, without blocking; sets `at_end` as `take_all`.

        Raises:
            ProtocolError: What came is not a message; nothing more can be read from this channel.
        """
        return self.take_all(_unpack, sys.maxsize)

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
            if len(packed) > FRAME_LIMIT:
                raise ValueError(f"a message of {len(packed)} bytes is larger than {FRAME_LIMIT}")
            self._packer = msgpack.Packer()  # the old one would keep room for as large a message
        return packed


def connect_pair() -> tuple[Channel, socket.socket]:
    """Return the supervisor's channel and the slot's end of a new pair of sockets."""
    from pfw import host

    ours, theirs = host.seqpacket_pair()
    return Channel(ours, theirs.dup()), theirs


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
