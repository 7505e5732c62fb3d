"""A TCP connection that can be hurt: what a peer and the coordinator say to each other goes through here."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit


class Proxy:
    """Listens on a free port of loopback and passes everything on, as long as nobody hurts it."""

    def __init__(self, address: str) -> None:
        """Args:
        address: Of the coordinator, tcp://HOST:PORT.
        """
        target = urlsplit(address)
        self._target = (target.hostname, target.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_closed = self._is_shut = False
        #: Set while bytes pass.
        self._passes = threading.Event()
        self._passes.set()
        self._delay_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where the peer connects."""
        return "tcp://{}:{}".format(*self._listener.getsockname())

    def cut(self) -> None:
        """Ends all connections: what is on its way is lost."""
        with self._lock:
            doomed, self._sockets = self._sockets, []
        for end in doomed:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Passes nothing, and ends no connection: a cable that was pulled out."""
        self._passes.clear()

    def shut(self) -> None:
        """Ends all connections, and every new one at once."""
        self._is_shut = True
        self.cut()

    def slow(self, delay_s: float) -> None:
        """Holds everything that comes up for so long."""
        self._delay_s = delay_s

    def heal(self) -> None:
        """Passes everything on again, at once."""
        self._is_shut, self._delay_s = False, 0.0
        self._passes.set()

    def close(self) -> None:
        """Ends everything."""
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        self.cut()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()
            if self._is_shut or self._is_closed:
                self.cut()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        pause = threading.Event()
        with suppress(OSError):
            while data := source.recv(1 << 16):
                pause.wait(self._delay_s)
                self._passes.wait()
                sink.sendall(data)
        # The other direction ends by that too; each pump closes the end that it reads.
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
