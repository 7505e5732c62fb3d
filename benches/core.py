"""What a step costs in the pure machines: coordinator core, worker core and client session, without any process.

They talk to each other through the real wire format in virtual time; slots answer at once.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from benches._common import Bench, Figures, Line, expect, main

from pfw import messages as m
from pfw.graph import Graph, Spec
from pfw.graphs import pack_graph
from pfw.record import RunRecord
from pfw.session import Session
from pfw.wire import Assembler, encode
from pfw_coordinator.core import Core as Coordinator
from pfw_worker.core import Core as Worker

T = TypeVar("T")

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SPEC = Spec(0, 0, 0, 0.1, 2.0, 30.0, 1, 2.0)
CALL, OUTPUT = b"c" * 30, b"o" * 5
#: Virtual time of one turn of everything.
TURN_S = 0.0005
#: A machine that has not ended after so many turns is stuck.
TURNS = 100_000


class Meter:
    """Seconds by role."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("coordinator", "worker", "client"), 0.0)

    def time(self, role: str, function: Callable[..., T], *arguments: Any) -> T:
        """Calls the function and puts its time to the role's account."""
        began = time.perf_counter()
        result = function(*arguments)
        self.seconds[role] += time.perf_counter() - began
        return result


class Loop:
    """One coordinator, one worker with two slots, and one client, which runs one graph."""

    def __init__(self, graph: Graph) -> None:
        self.now, self.meter = 0.0, Meter()
        self.coordinator = Coordinator(
            python=PYTHON, version="0", pub="pub", host="here", seed=b"s" * 8, epoch_s=0.0, now=0.0, is_embedded=True
        )
        self.worker = Worker(m.Register(m.PROTOCOL, PYTHON, "0", "w", 1, "there", 2, 8, 1000, 0), 0.0)
        self.client = Session(m.Hello(m.PROTOCOL, PYTHON, "0", b"session"), "here", 0.0)
        self.record = RunRecord("core", "parallel", graph, None)
        self.ears = {role: Assembler() for role in ("coordinator-w", "coordinator-c", "worker", "client")}
        core, worker = self.coordinator, self.worker
        self.of_coordinator: dict[type, Callable[..., Any]] = {
            m.Register: core.on_register,
            m.Heartbeat: core.on_heartbeat,
            m.Outcomes: core.on_outcomes,
            m.Hello: core.on_hello,
            m.Submit: core.on_submit,
            m.Cursors: core.on_cursors,
        }
        self.of_worker: dict[type, Callable[..., Any]] = {
            m.Welcome: worker.on_welcome,
            m.Assign: worker.on_assign,
            m.Reply: worker.on_reply,
            m.Forget: worker.on_forget,
        }

    def run(self) -> Figures:
        """Runs the graph; returns µs per step by role."""
        count = len(self.record.graph.ids)
        self._introduce()
        self.meter = Meter()
        self.meter.time("client", self._submit)
        for _ in range(TURNS):
            if self.record.is_finished:
                break
            self._turn()
        expect(set(self.record.outputs), {count - 1} if self._is_chain else set(range(count)), "outputs")
        expect(self.record.is_finished, True, "the run's end")
        return {role: seconds / count * 1e6 for role, seconds in self.meter.seconds.items()}

    @property
    def _is_chain(self) -> bool:
        return any(self.record.graph.inputs)

    def _introduce(self) -> None:
        for _ in range(4):
            self._turn()
        expect((self.client.is_welcome, bool(self.worker.number)), (True, True), "registration")

    def _submit(self) -> None:
        graph = self.record.graph
        keep = (len(graph.ids) - 1,) if self._is_chain else tuple(range(len(graph.ids)))
        blob = pack_graph(graph)
        message = m.Submit(b"key", "core", "parallel", "stop", 0, keep, 0, 0, 0, b"", blob)
        self.client.submit(message, self.record)

    def _turn(self) -> None:
        self.now += TURN_S
        self._client_turn()
        self._worker_turns()
        meter, core = self.meter, self.coordinator
        meter.time("coordinator", core.on_time, self.now)
        box = meter.time("coordinator", core.drain, self.now)
        for peer, messages in box.messages.items():
            for frame in meter.time("coordinator", encode, messages):
                self._deliver(peer, frame)

    def _deliver(self, peer: bytes, frame: bytes) -> None:
        meter = self.meter
        if peer == b"w":
            for message in meter.time("worker", self.ears["worker"].feed, frame):
                meter.time("worker", self.of_worker[type(message)], message, self.now)
        else:
            for message in meter.time("client", self.ears["client"].feed, frame):
                meter.time("client", self.client.on_message, message, self.now)

    def _client_turn(self) -> None:
        self.meter.time("client", self.client.on_time, self.now)
        box = self.meter.time("client", self.client.drain, self.now)
        self._to_coordinator("client", b"c", box.messages)

    def _worker_turns(self) -> None:
        """Until its slots have nothing more to do."""
        worker, meter = self.worker, self.meter
        while True:
            meter.time("worker", worker.on_time, self.now)
            box = meter.time("worker", worker.drain, self.now)
            for slot, _ in box.starts:
                worker.on_slot_ready(slot, self.now)
            for slot, (_, _, blocks) in box.to_slots:
                numbers = tuple(number for first, *_, calls, _ in blocks for number in range(first, first + len(calls)))
                alike = [(cell,) * len(numbers) for cell in (int(self.now * 1e6), 5, OUTPUT, 6, 0)]
                columns = (numbers, bytes(len(numbers)), *alike)
                meter.time("worker", worker.on_slot_outcomes, slot, columns, self.now)
            self._to_coordinator("worker", b"w", box.messages)
            if not (box.messages or box.to_slots or box.starts):
                return

    def _to_coordinator(self, role: str, peer: bytes, messages: list[Any]) -> None:
        meter = self.meter
        if messages:
            for frame in meter.time(role, encode, messages):
                for message in meter.time("coordinator", self.ears[f"coordinator-{role[0]}"].feed, frame):
                    meter.time("coordinator", self.of_coordinator[type(message)], peer, message, self.now)


def make_graph(inputs: list[tuple[int, ...]]) -> Graph:
    """Steps of one function with these inputs."""
    count = len(inputs)
    ids = [f"step[{index}]" for index in range(count)]
    return Graph(ids, [b"function"], [SPEC], [0] * count, [0] * count, [CALL] * count, inputs, [()] * count)


#: {shape: inputs of its steps}
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "fan-out of 50,000": [()] * 50_000,
    "chain of 1,000": [(), *((index,) for index in range(999))],
}


def shape_round(shape: str) -> Figures:
    """Runs one shape through machines of its own."""
    return {f"{shape}: {role}": value for role, value in Loop(make_graph(SHAPES[shape])).run().items()}


def measure(bench: Bench) -> None:
    """Both shapes, in turns."""
    # As the daemons do it.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    found = bench.play(*[lambda shape=shape: shape_round(shape) for shape in SHAPES])
    bench.add(*[Line(f"pure machines, {name}", "µs/step", figures) for name, figures in found.items()])


if __name__ == "__main__":
    main(measure)
