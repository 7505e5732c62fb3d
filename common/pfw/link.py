"""The client's shell: one socket, the pure session, and who waits on it.

Whoever waits for a result polls the socket itself, so that a result wakes one thread and not two. While nobody waits, a
background thread keeps heartbeats and callbacks going. There is one *leader* at a time, who sleeps on the socket;
others sleep on a condition until the leader's turn has changed something.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pfw import host
from pfw import messages as m
from pfw.errors import ClusterError, CoordinatorLostError, InternalError, ProtocolError, StalledError
from pfw.packets import FRAMES_PER_TURN
from pfw.patience import Patience
from pfw.session import Session
from pfw.version import __version__
from pfw.wire import Assembler, encode

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The background thread leads only when nobody has for so long: a loop of submit and result keeps it out.
QUIET_S = 0.010
#: How often it looks while somebody else leads.
LED_S = 0.050
#: How long the end of a connection waits for what still has to be said.
CLOSE_S = 1.0


class Line(Protocol):
    """What a connection is made of. Nothing here blocks but `close`."""

    @property
    def at_end(self) -> bool:
        """Whether the other side is gone for good."""

    @property
    def wants_write(self) -> bool:
        """Whether `flush` is to be called once the descriptor is writable."""

    def fileno(self) -> int:
        """A descriptor that is readable when something has come."""

    def receive_frames(self) -> list[bytes]:
        """What has arrived, at most FRAMES_PER_TURN frames."""

    def has_input(self) -> bool:
        """Whether something has come of which the descriptor does not tell (any more)."""

    def send_frames(self, frames: Sequence[bytes]) -> bool:
        """Sends frames; False if nobody is there."""

    def flush(self) -> bool:
        """Sends what waits; returns whether nothing waits any more."""

    def close(self) -> None:
        """Ends it."""


class Link:
    """A connection to a coordinator, shared by all threads of a client."""

    def __init__(self, address: str, line: Line | None = None, *, daemon_fd: int = -1) -> None:
        """Makes one, not yet at work.

        Args:
            address: Of the coordinator.
            line: To it; None: one over ZeroMQ is made.
            daemon_fd: Names the process of a local cluster, a child of this one: its end is that of this connection.

        Raises:
            ConfigError: The address is none.
        """
        self.address = address
        session_id = os.urandom(16)
        if line is None:
            from pfw.sockets import Dealer  # the client of a local cluster needs no ZeroMQ

            line = Dealer(address, session_id[:8])
        self._line = line
        self._assembler = Assembler()
        hello = m.Hello(m.PROTOCOL, f"{sys.version_info.major}.{sys.version_info.minor}", __version__, session_id)
        self.session = Session(hello, address, time.monotonic())
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._has_leader = False
        self._followers = 0
        self._led_at = self._turned_at = float("-inf")
        self._wake_at = time.monotonic()
        self._afterwards: deque[Callable[[], None]] = deque()
        self._posted: deque[Callable[[Session, float], object]] = deque()
        self._pid = os.getpid()
        self._daemon_fd = daemon_fd
        self._may_stay_awake = daemon_fd >= 0 and host.cpu_capacity() > 1
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._poller = select.epoll()
        self._line_fd, self._wake_fd, self._is_stuck = line.fileno(), self._wake.fileno(), False
        for fd in (self._line_fd, self._wake_fd, daemon_fd):
            if fd >= 0:
                self._poller.register(fd, select.EPOLLIN)
        self._patience = Patience(self._poller)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._attend, name="pfw-client", daemon=True)
        self._thread.start()

    # -- for clients -----------------------------------------------------------------------------------------------

    def call(self, action: Callable[[Session, float], T]) -> T:
        """Does something with the session, and sends what comes of it.

        Raises:
            ClusterError: The connection has ended.
        """
        self._check_process()
        with self._lock:
            self._check()
            now = time.monotonic()
            result = action(self.session, now)
            # Nobody may be there to hear: the background thread may be in a callback of the user's.
            if self._posted or now >= self._wake_at or not (self._has_leader or now - self._turned_at < LED_S):
                self._turn()
            else:
                self._speak(now)
            self._wake_followers()
            if self._has_leader:
                self._poke()
        self._run_afterwards()
        return result

    def post(self, action: Callable[[Session, float], object]) -> None:
        """Has something done with the session in the next turn. Takes no lock: a signal handler may call it."""
        self._posted.append(action)
        if not self._closed.is_set():
            self._poke()

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `predicate()` is true (it must be cheap); False if the time is over before."""
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            is_leader = False
            try:
                with self._lock:
                    now = time.monotonic()
                    until = self._wake_at if deadline is None else min(self._wake_at, deadline)
                    is_over = self._closed.is_set() or (deadline is not None and now >= deadline)
                    if not (self._afterwards or self._has_leader or predicate()):
                        if not is_over:
                            self._has_leader = is_leader = True
                        elif not self._closed.is_set():
                            self._turn()  # who only looks now and then leads never, and has to hear all the same
                if is_leader:
                    self._sleep(until - now, may_stay_awake=self._may_stay_awake)
            finally:
                if is_leader:
                    self._resign()
                    self._led_at = time.monotonic()
            self._run_afterwards()
            if (found := predicate()) or is_over:
                return found
            if not is_leader:
                self._follow(predicate, until - now)

    def _resign(self) -> None:
        with self._lock:
            self._has_leader = False
            if not self._closed.is_set():
                self._turn()
            self._wake_followers()

    def _follow(self, predicate: Callable[[], bool], seconds: float) -> None:
        """Waits for the leader's turn; the background thread gives its lead away."""
        with self._lock:
            if self._has_leader and not predicate():
                self._followers += 1
                try:
                    self._poke()
                    self._changed.wait(max(0.0, min(seconds, 0.05)))
                finally:
                    self._followers -= 1

    def afterwards(self, action: Callable[[], None]) -> None:
        """Runs something outside the lock after this turn; for callbacks into the user's code."""
        self._afterwards.append(action)

    def close(self) -> None:
        """Says what was posted, and ends the connection and its thread."""
        if os.getpid() != self._pid or self._closed.is_set():
            return
        try:
            with self._lock:
                if self.session.error is None:
                    self._turn()
            # Also the cancel of a run that the coordinator has not accepted yet stands.
            self.wait(lambda: not (self.session.owes_cancels or self._line.wants_write), CLOSE_S)
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            self.session.on_lost(ClusterError("the client was closed"))
            self._poke()
            self._wake_followers()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._run_afterwards()
        self._line.close()
        self._poller.close()
        self._wake.close()
        self._waker.close()
        if self._daemon_fd >= 0:
            os.close(self._daemon_fd)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or the connection has failed."""
        return self._closed.is_set() or self.session.error is not None

    def _check_process(self) -> None:
        # Before the lock is taken: after a fork its holder may not exist here.
        if os.getpid() != self._pid:
            raise ClusterError("this client belongs to the process that made it: make one of your own after a fork")

    def _check(self) -> None:
        if self.session.error is not None:
            raise self.session.error
        if self._closed.is_set():
            raise ClusterError("the client was closed")

    # -- turns -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Receives all that is there and sends what comes of it. With the lock held."""
        now = self._turned_at = time.monotonic()
        while True:
            frames = self._receive()
            for frame in frames:
                self._deliver(frame, now)
            while self._posted:
                self._posted.popleft()(self.session, now)
            self.session.on_time(now)
            box = self.session.drain(now)
            if not box.messages and len(frames) < FRAMES_PER_TURN:
                break
            if box.messages:
                self._send(box.messages)
            # Sending may have taken the socket's wake-up for messages that came meanwhile.
            if not self._line.has_input():
                break
        self._settle(box.wake_at)

    def _speak(self, now: float) -> None:
        """Sends what there is to say, for which nothing has to be heard: half of a turn. With the lock held."""
        box = self.session.drain(now)
        if box.messages:
            self._send(box.messages)
        self._settle(box.wake_at)
        if self._line.has_input():  # as in a turn
            self._turn()

    def _settle(self, wake_at: float) -> None:
        """What the line needs after it was used."""
        self._wake_at = wake_at
        if self._line.at_end:
            self._leave_line()
        elif self._line.wants_write is not self._is_stuck:
            self._is_stuck = not self._is_stuck
            self._poller.modify(self._line_fd, select.EPOLLIN | (select.EPOLLOUT if self._is_stuck else 0))

    def _leave_line(self) -> None:
        """The descriptor of a line at its end would be readable for ever; why it ended is known from the process."""
        if self._line_fd >= 0:
            self._poller.unregister(self._line_fd)
            self._line_fd = -1

    def _receive(self) -> list[bytes]:
        if self._is_stuck:
            self._line.flush()
        try:
            return self._line.receive_frames()
        except ProtocolError as error:
            self.session.on_lost(InternalError(f"nothing can be heard any more: {error}"))
            return []

    def _send(self, messages: list[m.Message]) -> None:
        try:
            frames = encode(messages)
        except (ProtocolError, ValueError, TypeError, OverflowError) as error:
            # Said again and again it would spoil every later call: better the client ends and says why.
            self.session.on_lost(InternalError(f"a message cannot be sent: {error!r}"))
            return
        if not self._line.send_frames(frames):
            self.session.on_unsent()

    def _deliver(self, frame: bytes, now: float) -> None:
        try:
            for message in self._assembler.feed(frame):
                self.session.on_message(message, now)
        except ProtocolError as error:
            logger.warning("dropped a message of the coordinator at %s: %s", self.address, error)

    def _sleep(self, seconds: float, *, may_stay_awake: bool = False) -> None:
        """Waits for input, without the lock."""
        for fd, _ in self._patience.wait(max(0.0, seconds), may_stay_awake=may_stay_awake):
            if fd == self._wake_fd:
                try:
                    self._wake.recv(4096)
                except BlockingIOError:
                    pass
            elif fd == self._daemon_fd:
                self._poller.unregister(fd)
                with self._lock:
                    self.session.on_lost(_ended(fd))

    def _poke(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:  # it has been poked already, or is closed
            pass

    def _run_afterwards(self) -> None:
        """Runs what is to be done outside the lock, in order; whoever waits looks again."""
        if not self._afterwards:
            return
        while self._afterwards:
            try:
                action = self._afterwards.popleft()
            except IndexError:
                break
            action()
        with self._lock:
            self._wake_followers()
            if self._has_leader:
                self._poke()

    def _wake_followers(self) -> None:
        if self._followers:
            self._changed.notify_all()

    def _attend(self) -> None:
        """The background thread: leads while nobody else does."""
        while not self._closed.is_set():
            with self._lock:
                now = time.monotonic()
                is_led = self._has_leader or bool(self._followers)
                is_elsewhere = is_led or now - self._led_at < QUIET_S
                if not is_elsewhere:
                    self._has_leader = True
                    until = self._wake_at
            if is_elsewhere:
                # Looking often whether a waiting caller still leads would cost as much as leading.
                self._closed.wait(LED_S if is_led else QUIET_S)
                continue
            try:
                self._sleep(until - now)
            finally:
                self._resign()
            self._run_afterwards()


def _ended(daemon_fd: int) -> ClusterError | StalledError:
    """What the end of a local cluster's process means for its runs."""
    exit_code, how = host.end_of(daemon_fd)
    if exit_code == m.EXIT_STALLED:
        return StalledError("the local cluster can start no slots any more: nothing can run there")
    return CoordinatorLostError(f"the local cluster has ended ({how})")
