"""Following a run: on the console, in a file of JSON lines, by statistics of one's own, and by a function.

Run it with `python examples/progress_tracking.py [FILE.jsonl]`. All four are told of every event of one run; some
of its steps fail, one of them for good.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from pfw import ConsoleProgress, Event, FileProgress, Retry, Tracker, Workflow, current, run, step

#: Of these one event may stand for several steps, where many are told at once; it has no `step_id` then.
COUNTED = ("Queued", "Started")


@step
def measure(number: int) -> int:
    """Works at once."""
    return number * number


@step(retry=Retry(retries=2, backoff=0.01))
def flaky(numbers: list[int]) -> int:
    """Works the second time."""
    if current().attempt == 1:
        raise ConnectionError("the other side is not there yet")
    return sum(numbers)


@step
def broken(total: int) -> None:
    """Never works."""
    raise ValueError(f"{total} is more than I can bear")


@step
def after(nothing: None) -> None:
    """Is skipped, since it depends on the broken one."""


class Statistics(Tracker):
    """Counts events by type, and adds up the time that steps took."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.worked_s = 0.0
        self.slowest = ("", 0.0)

    def on_event(self, event: Event) -> None:
        """Gets every event of the run, in order, on a thread of its own."""
        self.events[event.type] += event.steps if event.step_id is None and event.type in COUNTED else 1
        if event.step_id is not None and event.duration is not None:
            self.worked_s += event.duration
            self.slowest = max(self.slowest, (event.step_id, event.duration), key=lambda pair: pair[1])


def main() -> Workflow:
    """Makes the workflow."""
    with Workflow("progress tracking") as workflow:
        total = flaky(measure.map(range(5)))
        after(broken(total))
        workflow.returns(total)
    return workflow


def in_file(path: str) -> Counter[str]:
    """Returns how often each type of event is in the file."""
    lines = Path(path).read_text("utf-8").splitlines()
    return Counter(json.loads(line)["type"] for line in lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        path = sys.argv[1] if len(sys.argv) > 1 else str(Path(scratch, "events.jsonl"))
        statistics = Statistics()
        finished: list[str] = []

        def on_event(event: Event) -> None:
            """Notes what has completed: a function is enough where that is all."""
            if event.type == "Completed" and event.step_id is not None:
                finished.append(event.step_id)

        trackers = (ConsoleProgress(sys.stdout), FileProgress(path), statistics, on_event)
        found = run(main(), progress=trackers, on_failure="continue", check=False)

        print(f"\n{found.status}; the sum is {found.outputs['flaky']}")
        print("statistics:", ", ".join(f"{count} {name}" for name, count in sorted(statistics.events.items())))
        print(f"the slowest step was {statistics.slowest[0]}; all together worked {statistics.worked_s * 1000:.1f} ms")
        print("the function saw:", ", ".join(sorted(finished)))
        written = in_file(path)
        print("the file has:", ", ".join(f"{count} {name}" for name, count in sorted(written.items())))
        print("its last line:", Path(path).read_text("utf-8").splitlines()[-1])
