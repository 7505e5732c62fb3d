"""What the benchmarks share: rounds, checks, lines, and what this machine can do at best.

Figures move with the machine and with what else it does. So the contestants of a benchmark take turns, round by round;
each round begins with the same three calibrations; and what is reported is the median with the spread beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import resource
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROUNDS = 5
#: A benchmark that takes longer than this has hung: it is ended with an error.
LIMIT_S = 120
#: How long the way out may take then.
LEAVE_S = 10

#: CPU slots of pfw, and processes of the references.
CPU = 2

#: {figure: median seconds or rate}
Figures = Mapping[str, float]
Contestant = Callable[[], Figures]

#: Names of the calibrations among the figures of a round.
LOOP, ZMQ, SEQPACKET = "1 M additions, ms", "ZeroMQ ipc round trip, µs", "SEQPACKET round trip, µs"
CALIBRATIONS = (LOOP, ZMQ, SEQPACKET)
#: And one of the whole benchmark: how many cores somebody else used, right to some tenths (the
#: kernel counts in ticks). Figures count only where that is next to nothing.
OTHERS = "cores used by others"
#: Round trips of one calibration: about 40 ms.
TRIPS = 300
_PACKET = b"x" * 50


class WrongResultError(Exception):
    """A contestant was fast, and wrong."""


@dataclass(slots=True)
class Line:
    """One line of a table: what was measured, what it should be, and what something else makes of the same work."""

    what: str
    #: One of the keys of `FORMATS`.
    unit: str
    #: One figure for each round.
    figures: list[float]
    #: None: this line only stands beside another.
    target: float | None = None
    #: Whether more is better.
    is_rate: bool = False
    #: What the reference is, "" for none, and its figures.
    reference: str = ""
    reference_figures: list[float] = field(default_factory=list)
    #: What the reader has to know.
    note: str = ""

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.figures)

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the target, None without one."""
        if self.target is None:
            return None
        return self.median >= self.target if self.is_rate else self.median <= self.target

    @property
    def times_better(self) -> float | None:
        """How many times as good as the reference; None without one."""
        if not self.reference_figures:
            return None
        reference = statistics.median(self.reference_figures)
        return self.median / reference if self.is_rate else reference / self.median


FORMATS: dict[str, Callable[[float], str]] = {
    "steps/s": lambda x: f"{x:,.0f} steps/s",
    "ns": lambda x: f"{x:.1f} ns",
    "ms": lambda x: f"{x:.1f} ms",
    "µs": lambda x: f"{x:,.0f} µs" if x >= 100 else f"{x:.1f} µs",
    "µs/step": lambda x: f"{x:.2f} µs/step",
    "s": lambda x: f"{x:.3f} s",
    "× bound": lambda x: f"{x:.3f} × bound",
    "× ideal": lambda x: f"{x:.3f} × ideal",
    "runs": lambda x: f"{x:.0f} runs",
    "MB": lambda x: f"{x:.1f} MB",
    "%": lambda x: f"{x:.1f} %",
}


def spread(figures: list[float], unit: str) -> str:
    """The median with its unit; the lowest and the highest in brackets where there are several."""
    text = FORMATS[unit](statistics.median(figures))
    if len(figures) == 1:
        return text
    low, high = (FORMATS[unit](value).split(" ")[0] for value in (min(figures), max(figures)))
    return f"{text} ({low} – {high})"


def target_text(line: Line) -> str:
    """As `>= 80,000 steps/s`, "" without a target."""
    if line.target is None:
        return ""
    return f"{'>=' if line.is_rate else '<='} {FORMATS[line.unit](line.target)}"


# ---------------------------------------------------------------------------------------------------- rounds


class Bench:
    """One benchmark: plays its rounds and collects the lines."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.calibrations: dict[str, list[float]] = {name: [] for name in CALIBRATIONS}
        self._calibrate: Callable[[], Figures] = dict

    def play(self, *contestants: Contestant, rounds: int = ROUNDS) -> dict[str, list[float]]:
        """Lets the contestants take turns, another one first in every round.

        Returns:
            {figure: its values, one for each round}
        """
        found: dict[str, list[float]] = {}
        for number in range(rounds):
            for name, value in self._calibrate().items():
                self.calibrations[name].append(value)
            first = number % len(contestants)
            for contestant in contestants[first:] + contestants[:first]:
                gc.collect()
                for name, value in contestant().items():
                    found.setdefault(name, []).append(value)
        return found

    def add(self, *lines: Line) -> None:
        """Takes lines for the table and prints them."""
        for line in lines:
            self.lines.append(line)
            print(_as_text(line), flush=True)

    @contextmanager
    def calibrated(self) -> Iterator[None]:
        """Has the processes that answer the calibrations. They are forked here: before any thread is."""
        with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
            fork = multiprocessing.get_context("fork")
            address = f"ipc://{folder}/echo"
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            echoes = [
                fork.Process(target=_echo_zmq, args=(address,), daemon=True),
                fork.Process(target=_echo_seqpacket, args=(ours, theirs), daemon=True),
            ]
            for echo in echoes:
                echo.start()
            theirs.close()
            try:
                with _zmq_trip(address) as zmq_trip:
                    self._calibrate = lambda: {
                        LOOP: _loop_s() * 1e3,
                        ZMQ: _trip_s(zmq_trip) * 1e6,
                        SEQPACKET: _trip_s(lambda: (ours.send(_PACKET), ours.recv(100))) * 1e6,
                    }
                    yield
            finally:
                ours.close()
                for echo in echoes:
                    echo.kill()
                    echo.join()


def _as_text(line: Line) -> str:
    verdict = {True: "met", False: "MISSED", None: ""}[line.is_met]
    parts = [f"{line.what}: {spread(line.figures, line.unit)}"]
    if line.target is not None:
        parts.append(f"target {target_text(line)}: {verdict}")
    if line.times_better is not None:
        reference = spread(line.reference_figures, line.unit)
        parts.append(f"{line.reference}: {reference}; pfw is {line.times_better:.2f} times as good")
    return "\n    ".join([*parts, *([line.note] if line.note else [])])


def main(measure: Callable[[Bench], None]) -> None:
    """Runs one benchmark as a program.

    Args:
        measure: Plays rounds on the Bench it is given, and adds lines to it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, help="append the lines, in JSON, to this file")
    rows: Path | None = parser.parse_args().rows
    signal.signal(signal.SIGALRM, _on_limit)
    signal.alarm(LIMIT_S)
    bench = Bench()
    began, others_s = time.perf_counter(), _others_cpu_s()
    with bench.calibrated():
        measure(bench)
    medians = {name: statistics.median(values) for name, values in bench.calibrations.items() if values}
    medians[OTHERS] = max(0.0, (_others_cpu_s() - others_s) / (time.perf_counter() - began))
    print("    meanwhile:", ", ".join(f"{name} {value:.2f}" for name, value in medians.items()), flush=True)
    if rows is not None and bench.lines:
        record = {
            "name": Path(sys.argv[0]).stem,
            "lines": [asdict(line) for line in bench.lines],
            "calibrations": medians,
        }
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _on_limit(number: int, frame: FrameType | None) -> None:
    # The way out may hang as well: the second alarm ends the process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LEAVE_S)
    raise TimeoutError(f"the benchmark took more than {LIMIT_S} s")


def expect(found: object, wanted: object, what: str) -> None:
    """Compares with what a serial run gave.

    Raises:
        WrongResultError: It is something else.
    """
    if found != wanted:
        raise WrongResultError(f"{what}: not what a serial run gives")


@contextmanager
def stopwatch(figures: dict[str, float], name: str) -> Iterator[None]:
    """Puts the seconds that the block took into `figures`."""
    began = time.perf_counter()
    yield
    figures[name] = time.perf_counter() - began


# ---------------------------------------------------------------------------------------------------- calibrations


def _others_cpu_s() -> float:
    """CPU seconds that this machine has used since its start, without this process and its children that have ended."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(count) for count in file.readline().split()[1:9]]
    # user nice system idle iowait irq softirq steal: all but the two in which it rested.
    busy_s = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    mine = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return busy_s - sum(usage.ru_utime + usage.ru_stime for usage in mine)


def _loop_s() -> float:
    began, total = time.perf_counter(), 0
    for number in range(1_000_000):
        total += number
    return time.perf_counter() - began


def _trip_s(trip: Callable[[], Any]) -> float:
    """Seconds of one round trip, with the other process warm."""
    for _ in range(TRIPS // 10):
        trip()
    began = time.perf_counter()
    for _ in range(TRIPS):
        trip()
    return (time.perf_counter() - began) / TRIPS


@contextmanager
def _zmq_trip(address: str) -> Iterator[Callable[[], Any]]:
    """A round trip of the kind that coordinator and worker make: ROUTER to DEALER and back."""
    # Not earlier: a process forked with ZeroMQ in it would have half of its state.
    import zmq

    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(address)
        peer, _ = router.recv_multipart()
        yield lambda: (router.send_multipart([peer, _PACKET]), router.recv_multipart())


def _echo_zmq(address: str) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(address)
        dealer.send(_PACKET)
        while True:
            dealer.send(dealer.recv())


def _echo_seqpacket(ours: socket.socket, theirs: socket.socket) -> None:
    ours.close()
    while packet := theirs.recv(100):
        theirs.send(packet)
