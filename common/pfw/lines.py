"""A run's facts as lines of JSON, for a file of events. What they say is what the events say, whose lines they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote

from pfw.events import COUNT_ABOVE, OF_STEP, EventReader
from pfw.facts import FACT_RUN_STARTED, FACT_SUCCEEDED
from pfw.messages import FactRow
from pfw.trackers import to_line

#: What ended in one turn has one time, and short steps have few durations: 0.1 µs where writing one anew takes 0.4.
_seconds = lru_cache(1_000)("{:.6f}".format)


class LineReader:
    """Turns a run's facts, read in order, into `to_line(event)` of their events; of steps that succeed without them."""

    def __init__(self, run_id: str, ids: Sequence[str], workers: Mapping[int, str], name: str = "") -> None:
        """As `EventReader`."""
        self._events = EventReader(run_id, ids, workers, name)
        self._run, self._ids, self._names = quote(run_id), ids, _Quoted(workers)

    def read(self, rows: Sequence[FactRow], epoch_s: float, *, may_count: bool = False) -> list[str]:
        """As `EventReader.read`, in lines. 1 µs a step where they are counted, else 2.3; half of what events take."""
        events, lines = self._events, list[str]()
        counted: list[FactRow] | None = [] if may_count and len(rows) > COUNT_ABOVE else None
        for row in rows:
            kind = row[0]
            if kind not in OF_STEP:
                lines += map(to_line, events.other(row, epoch_s))
                continue
            if events.is_news(row):
                if counted is None:
                    lines.append(self._before(row, epoch_s))
                else:
                    counted.append(row)
            is_plain = kind == FACT_SUCCEEDED and row[1] not in events.own_run_s
            lines.append(self._completed(row, epoch_s) if is_plain else to_line(events.end(row, epoch_s)))
        if counted:
            at = int(rows[0][0] == FACT_RUN_STARTED)
            lines[at:at] = map(to_line, events.count(counted, epoch_s))
        return lines

    def conclude(self, states: Iterable[int], error: Exception, timestamp: float) -> list[str]:
        """As `EventReader.conclude`, in lines."""
        return list(map(to_line, self._events.conclude(states, error, timestamp)))

    def _before(self, row: FactRow, epoch_s: float) -> str:
        """The lines of Started, and of Queued before a first attempt."""
        _, step, _, attempt, worker, queued_at, started_at, _, _, _, _ = row
        step_id, run = quote(self._ids[step]), self._run
        started = (
            f'{{"type":"started","step_id":{step_id},"timestamp":{started_at + epoch_s:.6f},"run_id":{run},'
            f'"message":"Started: {step_id[1:]},"attempt":{attempt},"worker":{self._names[worker]}}}\n'
        )
        if attempt > 1:
            return started
        return (
            f'{{"type":"queued","step_id":{step_id},"timestamp":{_seconds(queued_at + epoch_s)},"run_id":{run},'
            f'"message":"Queued: {step_id[1:]}}}\n{started}'
        )

    def _completed(self, row: FactRow, epoch_s: float) -> str:
        _, step, at, attempt, worker, _, _, run_s, _, _, _ = row
        step_id = quote(self._ids[step])
        return (
            f'{{"type":"completed","step_id":{step_id},"timestamp":{_seconds(at + epoch_s)},"run_id":{self._run},'
            f'"message":"Completed: {step_id[1:]},"attempt":{attempt},"worker":{self._names[worker]},'
            f'"duration":{_seconds(run_s)}}}\n'
        )


class _Quoted(dict[int, str]):
    """Workers' names as JSON writes them, by number."""

    def __init__(self, workers: Mapping[int, str]) -> None:
        self._workers = workers

    def __missing__(self, number: int) -> str:
        # A number has one name for ever, once it has one.
        return self.setdefault(number, quote(self._workers[number])) if number in self._workers else '""'
