"""What the form itself costs: a coordinator, a supervisor and a slot that only pass messages on.

The same sockets, as many processes and hops as in pfw, msgpack at each, one wait at a time: no graph, no checks, no
credit, no heartbeats, nothing that survives a loss. What it needs for a step is what this machine charges for waking
processes, and pfw can be faster on it only with fewer hops: a chain goes to its slot whole.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgpack
import zmq

_WORKER, _CLIENT = b"worker", b"client"


@contextmanager
def relay() -> Iterator[Callable[[int, int], int]]:
    """Gives `call(steps, number)`: a chain of so many steps, each of which adds one to the number before it."""
    with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
        address = f"ipc://{folder}/relay"
        fork = multiprocessing.get_context("fork")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        processes = [
            fork.Process(target=_be_slot, args=(theirs, ours), daemon=True),
            fork.Process(target=_be_supervisor, args=(address, ours), daemon=True),
            fork.Process(target=_be_coordinator, args=(address,), daemon=True),
        ]
        for process in processes:
            process.start()
        ours.close()
        theirs.close()
        context = zmq.Context()
        client = _dealer(context, address, _CLIENT)
        try:
            yield lambda steps, number: _ask(client, steps, number)
        finally:
            context.destroy(linger=0)
            for process in processes:
                process.kill()
                process.join()


def _dealer(context: zmq.Context[zmq.Socket[bytes]], address: str, identity: bytes) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, identity)
    dealer.connect(address)
    return dealer


def _ask(client: zmq.Socket[bytes], steps: int, number: int) -> int:
    client.send(msgpack.packb((steps, number)))
    value: int = msgpack.unpackb(client.recv())
    return value


def _be_coordinator(address: str) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(address)
    router.recv_multipart()  # the supervisor is there
    while True:
        _, request = router.recv_multipart()
        steps, value = msgpack.unpackb(request)
        for _ in range(steps):
            router.send_multipart((_WORKER, msgpack.packb(value)))
            _, outcome = router.recv_multipart()
            value = msgpack.unpackb(outcome)
        router.send_multipart((_CLIENT, msgpack.packb(value)))


def _be_supervisor(address: str, slot: socket.socket) -> None:
    dealer = _dealer(zmq.Context(), address, _WORKER)
    dealer.send(b"")
    while True:
        slot.send(msgpack.packb(msgpack.unpackb(dealer.recv())))
        dealer.send(msgpack.packb(msgpack.unpackb(slot.recv(100))))


def _be_slot(supervisor: socket.socket, other_end: socket.socket) -> None:
    other_end.close()
    while call := supervisor.recv(100):
        supervisor.send(msgpack.packb(msgpack.unpackb(call) + 1))
