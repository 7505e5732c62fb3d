"""Short steps of sequential mode that have returned and are not committed yet, as columns."""

from __future__ import annotations

from pfw.codec import Small, all_dumped


class Returned:
    """When each step began, s, how long it ran, s, and its output, pickled when it is taken.

    Four lists take less than a list of rows: a row is an object that the collector has to look at.
    """

    __slots__ = ("outputs", "runs_s", "started_at", "steps")

    def __init__(self) -> None:
        self.steps, self.started_at, self.runs_s = list[int](), list[float](), list[float]()
        #: Appended to last: a row is there once this is, should a signal handler raise in between.
        self.outputs: list[bytes | Small] = []

    def add(self, step: int, started_at: float, run_s: float, output: bytes | Small) -> None:
        """Adds a step."""
        self.steps.append(step)
        self.started_at.append(started_at)
        self.runs_s.append(run_s)
        self.outputs.append(output)

    def take(self) -> tuple[list[int], list[float], list[float], list[bytes]]:
        """What is there, which is forgotten."""
        count = len(self.outputs)
        taken = self.steps[:count], self.started_at[:count], self.runs_s[:count], all_dumped(self.outputs)
        for column in (self.steps, self.started_at, self.runs_s, self.outputs):
            column.clear()
        return taken
