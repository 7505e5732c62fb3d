"""What the coordinator says of itself to people and scripts. It reads state and changes nothing. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pfw.facts import READY, RUN_STATE_NAMES, STATE_NAMES
from pfw_coordinator.ledger import Run, Worker
from pfw_coordinator.outlook import obstacle, waits_for


def report_workers(workers: Iterable[Worker], now: float) -> list[dict[str, Any]]:
    """One row for each worker, in the order of registration."""
    return [
        {
            "name": worker.name,
            "pid": worker.pid,
            "state": "suspect" if worker.is_suspect else "leaving" if worker.is_leaving else "ready",
            "cpu": worker.slots[0],
            "io": worker.slots[1],
            "resources": worker.resources,
            "free": worker.left,
            "held": len(worker.attempts),
            "rss_bytes": worker.stats[0],
            "cpu_percent": worker.stats[1],
            "load": worker.stats[2],
            "slots": worker.stats[3],
            "seen_s": round(now - worker.last_seen, 3),
        }
        for worker in workers
    ]


def report_runs(runs: Iterable[Run], epoch_s: float, now: float) -> list[dict[str, Any]]:
    """One row for each run that is known, the oldest first; an inner run is part of another."""
    return [_report_run(run, epoch_s, now) for run in runs if run.outer is None]


def _report_run(run: Run, epoch_s: float, now: float) -> dict[str, Any]:
    life = run.life
    ended_at = life.facts.last.at if life.is_finished and life.facts else now
    return {
        "id": run.id,
        "name": run.name,
        "version": run.version,
        "status": RUN_STATE_NAMES[life.status],
        "mode": life.mode,
        "steps": len(life.states),
        **{STATE_NAMES[state].lower(): count for state, count in sorted(Counter(life.states).items())},
        "waits_for": waits_for(run),
        "started_at": run.started_at + epoch_s,
        "duration_s": round(ended_at - run.started_at, 6),
    }


def report_step(
    run: Run, step: int, workers: Iterable[Worker], in_use: Mapping[str, int], now: float
) -> dict[str, Any]:
    """How a step stands that has not ended, and the slots of its lane: what `pfw.explanation` makes words of."""
    life, workers = run.life, list(workers)
    lane = life.spec(step).lane
    holder = next((w for w in workers for a in w.attempts.values() if a.run is run and a.step == step), None)
    return {
        "state": STATE_NAMES[life.states[step]],
        "attempt": life.attempts[step],
        "retry_s": life.retry_s(step, now),
        "worker": holder.name if holder is not None else "",
        "silent_s": now - holder.last_seen if holder is not None and holder.is_suspect else 0.0,
        "obstacle": obstacle(run, step, workers, in_use) if life.states[step] == READY else "",
        "slots": sum(worker.slots[lane] for worker in workers),
        "taken": sum(min(worker.out[lane], worker.slots[lane]) for worker in workers),
        "waiting": life.ready[lane].count,
        "is_in_later_wave": life.is_in_later_wave(step),
    }


def report_status(workers: Iterable[Worker], runs: Iterable[Run]) -> dict[str, Any]:
    """The cluster in numbers."""
    workers, live = list(workers), [run for run in runs if not run.life.is_finished and run.outer is None]
    return {
        "workers": len(workers),
        "runs": len(live),
        "waiting": sum(bool(waits_for(run)) for run in live),
        "cpu": sum(worker.slots[0] for worker in workers),
        "io": sum(worker.slots[1] for worker in workers),
        "async": sum(worker.slots[2] for worker in workers),
        "held": sum(len(worker.attempts) for worker in workers),
    }
