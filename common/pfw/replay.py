"""What `pfw run` needs of a recorded workflow: the workflow to replay, and how fast that could be at best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pfw.summary import PROCESS
from pfw.wfformat import Instance, Lane, load, lower_bound, to_workflow
from pfw.workflow import Workflow


class Replay(NamedTuple):
    """A recorded workflow, and how it is replayed."""

    instance: Instance
    #: Recorded seconds are multiplied by this, recorded bytes by the next.
    time_scale: float
    bytes_scale: float
    #: All tasks are put in this lane; None: each in its own.
    lane: Lane | None

    def workflow(self) -> Workflow:
        """The workflow that replays it."""
        return to_workflow(self.instance, time_scale=self.time_scale, bytes_scale=self.bytes_scale, lane=self.lane)

    def bound_s(self, slots: Mapping[str, int]) -> float | None:
        """Seconds that no replay can be faster than; None if a lane has tasks and no slots, so that it cannot end.

        Args:
            slots: {lane: slots}; one slot of the lane PROCESS stands for a process that executes everything itself.
        """
        if PROCESS in slots:
            return lower_bound(self.instance, {"cpu": slots[PROCESS]}, time_scale=self.time_scale, lane="cpu")
        lanes = {self.lane or task.lane for task in self.instance.tasks if task.runtime_s > 0}
        if not all(slots.get(lane) for lane in lanes):
            return None
        return lower_bound(self.instance, slots, time_scale=self.time_scale, lane=self.lane)


def load_replay(path: Path, time_scale: float = 1.0, bytes_scale: float = 0.0, lane: Lane | None = None) -> Replay:
    """Reads a file in WfFormat; the arguments are those of `to_workflow`.

    Raises:
        WfFormatError: As `load`; the message names the place.
        CycleError: As `load`.
    """
    return Replay(load(path), time_scale, bytes_scale, lane)
