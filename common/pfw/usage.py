"""What steps cost the process that executes them: time, CPU time and peak memory. It knows of no steps and messages."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import coroutine
from typing import Any, Final

from pfw import host
from pfw.facts import UNMEASURED, Cost

#: Memory is looked at after work that took at least this, µs: in less, little can be allocated, and a look takes 7 µs.
LOOK_US: Final = 1_000


class Meter:
    """Measures this process from `begin` to `end`, which may be repeated."""

    __slots__ = ("_cpu_ns",)

    def __init__(self) -> None:
        self._cpu_ns = 0

    def begin(self) -> None:
        """The work begins."""
        self._cpu_ns = time.process_time_ns()

    def leave_out(self, cpu_ns: int) -> None:
        """So much of the CPU time since `begin` went into something else."""
        self._cpu_ns += cpu_ns

    def end_one(self, run_us: int) -> Cost:
        """What the work, one step that ran for so long, has cost; the next one begins."""
        cpu_ns = time.process_time_ns()
        cpu_us, self._cpu_ns = (cpu_ns - self._cpu_ns) // 1000, cpu_ns
        return cpu_us, host.take_peak_memory() if run_us >= LOOK_US else 0

    def end(self, runs_us: Sequence[int], running_us: int = 0) -> tuple[list[int], list[int]]:
        """What the work has cost, for each step in it: CPU times and peaks of memory; the next one begins.

        Steps that were executed together share their CPU time as they share their run time (reading that clock takes
        0.6 µs, too much for each short one), and have one peak of memory.

        Args:
            runs_us: How long each step ran, µs.
            running_us: How long another one has run that goes on: its share, and the peak, are left to it.
        """
        if len(runs_us) == 1 and not running_us:
            cpu_us, peak_bytes = self.end_one(runs_us[0])
            return [cpu_us], [peak_bytes]
        total_us = sum(runs_us) + running_us
        cpu_us, peak_bytes = self.end_one(0 if running_us else total_us)
        if running_us:
            self._cpu_ns -= cpu_us * running_us // total_us * 1000
        return [cpu_us * run_us // (total_us or 1) for run_us in runs_us], [peak_bytes] * len(runs_us)


class Loads:
    """Time that goes into loading functions, with all that they import: it is no part of what their steps take."""

    __slots__ = ("_cpu_ns", "ns")

    def __init__(self) -> None:
        #: Of this the time that was not taken yet; most steps find that it is 0.
        self.ns = 0
        self._cpu_ns = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """What is done inside is a load."""
        began_ns, began_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        try:
            yield
        finally:
            self.ns += time.monotonic_ns() - began_ns
            self._cpu_ns += time.process_time_ns() - began_cpu_ns

    def take(self, meter: Meter) -> int:
        """The time since this was last asked, ns; the meter leaves out the CPU time of it."""
        self.leave_out(meter)
        spent_ns, self.ns = self.ns, 0
        return spent_ns

    def leave_out(self, meter: Meter) -> None:
        """The meter leaves out the CPU time that was not left out yet."""
        meter.leave_out(self._cpu_ns)
        self._cpu_ns = 0


class Turns:
    """The time of one task among others of its loop."""

    __slots__ = ("_began_ns", "cpu_ns")

    def __init__(self) -> None:
        self._began_ns = self.cpu_ns = 0

    def run_us(self) -> int:
        """For how long the task has run, with all that it has awaited; 0 before its first turn."""
        return (time.monotonic_ns() - self._began_ns) // 1000 if self._began_ns else 0

    def cost(self) -> Cost:
        """What the task has cost so far; its share of the process's memory is not known."""
        return self.cpu_ns // 1000, UNMEASURED[1]

    @coroutine
    def watch(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Awaits the coroutine and adds up the CPU time of its turns; 1.5 µs a turn."""
        resume, value = work.send, None
        self._began_ns = time.monotonic_ns()
        while True:
            began_ns = time.thread_time_ns()
            try:
                awaited = resume(value)
            except StopIteration as ended:
                return ended.value
            finally:
                self.cpu_ns += time.thread_time_ns() - began_ns
            try:
                resume, value = work.send, (yield awaited)
            except BaseException as error:  # a cancel, which is the coroutine's to deal with
                resume, value = work.throw, error
