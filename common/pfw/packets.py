"""Frames between two processes of one machine, over a pair of SOCK_SEQPACKET sockets.

A frame travels as packets of at most PACKET_BYTES, each after one byte that says whether more follow. Waking a process
this way takes 17 µs there and back where ZeroMQ, which has a thread at either end, takes 65.
"""

from __future__ import annotations

import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from fcntl import ioctl
from termios import FIONREAD
from typing import Final, TypeVar

from pfw.errors import ProtocolError

#: Largest part of a frame in one packet, in bytes.
PACKET_BYTES: Final = 100 * 1024
#: Longest frame: a result of 2 GiB and what surrounds it.
FRAME_LIMIT: Final = (2 << 30) + (1 << 20)
#: One turn takes at most so many frames of one socket, so that a flood cannot keep it from its deadlines.
FRAMES_PER_TURN: Final = 1_000

T = TypeVar("T")

_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_LAST: Final = b"\x00"
_MORE: Final = b"\x01"


class Packets:
    """One end of the socket pair."""

    __slots__ = ("_backlog", "_buffer", "_fd", "_parts", "_socket", "_unread", "at_end", "wants_write")

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a connected SEQPACKET socket; `close` closes it."""
        self._socket, self._fd = sock, sock.fileno()
        self._buffer = memoryview(bytearray(PACKET_BYTES + 1))
        self._parts = bytearray()
        self._unread = array("i", [0])
        self._backlog: deque[tuple[bytes, memoryview]] = deque()
        #: Whether packets wait in the backlog for the socket to become writable; then call `flush`.
        self.wants_write = False
        #: True when the other side is gone and everything it had sent was received.
        self.at_end = False

    def fileno(self) -> int:
        """The socket's file descriptor, for a poller."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket; what is still in the backlog is lost."""
        self._drop_backlog()
        self._socket.close()

    def send_frames(self, frames: Sequence[bytes]) -> bool:
        """Sends frames without blocking; what the socket does not take waits in the backlog.

        Returns:
            Whether there is another side, as far as `receive_frames` has seen. What is sent to one that is gone is
            dropped.
        """
        for frame in frames if not self.at_end else ():
            self.try_send_frame(frame)
        return not self.at_end

    def send_frame(self, frame: bytes) -> None:
        """Sends a frame, blocking as long as the other side does not read.

        Raises:
            OSError: The other side is gone.
        """
        if len(frame) <= PACKET_BYTES:  # one packet, as nearly all are: half of what a list of packets takes
            self._socket.send(_LAST + frame)
            return
        for packet in _packets(frame):
            self._socket.sendmsg(packet)

    def try_send_frame(self, frame: bytes) -> bool:
        """Sends a frame as `send_frames` does; returns whether everything has been sent."""
        if len(frame) <= PACKET_BYTES and not self.wants_write:
            try:
                self._socket.send(_LAST + frame, _DONTWAIT)
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                return True
            else:
                return True
        self._backlog.extend(_packets(frame))
        return self.flush()

    def flush(self) -> bool:
        """Sends what the backlog holds as far as the socket takes it; returns whether the backlog is empty."""
        while self._backlog:
            try:
                self._socket.sendmsg(self._backlog[0], (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.wants_write = True
                return False
            except (BrokenPipeError, ConnectionResetError):
                break
            self._backlog.popleft()
        self._drop_backlog()
        return True

    def _drop_backlog(self) -> None:
        self._backlog.clear()
        self.wants_write = False

    def receive_frames(self) -> list[bytes]:
        """What has arrived, without blocking, at most FRAMES_PER_TURN frames; sets `at_end` as `take_all`.

        Raises:
            ProtocolError: What came is no frame; nothing more can be read here.
        """
        return self.take_all(bytes, FRAMES_PER_TURN)

    def take_all(self, convert: Callable[[memoryview | bytearray], T], limit: int) -> list[T]:
        """What `convert` makes of each frame that has arrived, at most `limit`; never waits.

        The end of the other side is seen, and `at_end` set, once there is nothing else, maybe by the next call.

        Raises:
            ProtocolError: As `receive_frame`, and `convert`.
        """
        taken: list[T] = []
        if self.at_end:
            return taken
        try:
            frame = self.receive_frame(_DONTWAIT)
            if frame is not None:
                taken.append(convert(frame))
            # Nearly always that was all. To ask takes half as long as to be refused, but the socket counts all that it
            # has: where there is more it is asked once.
            ioctl(self._fd, FIONREAD, self._unread)
            while self._unread[0] and not self.at_end and len(taken) < limit:
                frame = self.receive_frame(_DONTWAIT)
                if frame is not None:
                    taken.append(convert(frame))
        except BlockingIOError:
            pass
        return taken

    def has_input(self) -> bool:
        """Whether something has come of which the descriptor does not tell: never."""
        return False

    def receive_frame(self, flags: int) -> memoryview | bytearray | None:
        """Receives one packet; returns the frame that it completes, if it does, good until the next call.

        Raises:
            BlockingIOError: There is none, and `flags` say not to wait.
            ProtocolError: The frame is longer than FRAME_LIMIT.
        """
        try:
            size = self._socket.recv_into(self._buffer, 0, flags)
        except ConnectionResetError:
            # The other side closed while it had packets to read. Those it had sent can still be received after this.
            return None
        if size == 0:
            self.at_end = True
            self._drop_backlog()
            return None
        buffer = self._buffer
        piece = buffer[1:size]
        if not (buffer[0] or self._parts):
            return piece
        if len(self._parts) + size > FRAME_LIMIT:
            raise ProtocolError(f"a frame is longer than {FRAME_LIMIT} bytes")
        self._parts += piece
        if self._buffer[0]:
            return None
        whole, self._parts = self._parts, bytearray()
        return whole


def _packets(whole: bytes) -> list[tuple[bytes, memoryview]]:
    """Cuts a frame into packets without copying it again."""
    frame = memoryview(whole)
    last = max(0, frame.nbytes - 1) // PACKET_BYTES
    return [
        (_LAST if index == last else _MORE, frame[index * PACKET_BYTES : (index + 1) * PACKET_BYTES])
        for index in range(last + 1)
    ]
