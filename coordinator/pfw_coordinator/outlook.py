"""What ready steps wait for: what no worker there is can ever give them, and what is not free now; in words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pfw.demand import Demand, Offer, demand_of, plain_demand, shortage
from pfw.lifecycle import ReadyQueue, RunLife
from pfw_coordinator.ledger import LANES, Run, Worker

#: How the coordinator calls a run's own cap among the limits: no user's limit has a name with a slash.
CAP = "/"


def queues_of(life: RunLife) -> Iterator[tuple[Demand, ReadyQueue]]:
    """Where the ready steps of a run wait, with what those there take."""
    for lane in LANES:
        yield plain_demand(lane), life.ready[lane]
    yield from life.demanding.items()


def review(run: Run, workers: Collection[Worker], cluster: int) -> Iterator[tuple[ReadyQueue, str, bool]]:
    """Looks at what the run's ready steps take, and at each kind once as long as the cluster is as it is.

    Args:
        run: Its `outlook` is what was found.
        workers: All that there are.
        cluster: The number of the cluster's last change.

    Yields:
        (steps, why no worker can ever run them, whether that is news for the run's client).
    """
    told = run.outlook
    if run.outlook_of != cluster:
        run.outlook, run.outlook_of = {}, cluster
    for demand, queue in list(queues_of(run.life)):
        if not queue.count or demand in run.outlook:
            continue
        before = told.get(demand)
        text = run.outlook[demand] = shortage(demand, [worker.offer for worker in workers if not worker.is_leaving])
        if text:
            yield queue, text, text != before


def waits_for(run: Run) -> str:
    """Why ready steps of the run, or of its inner runs, can be given to no worker there is; "" if there are none."""
    for one in (run, *run.inner.values()):
        for demand, queue in queues_of(one.life):
            if queue.count and one.outlook.get(demand):
                return one.outlook[demand]
    return ""


def obstacle(run: Run, step: int, workers: Collection[Worker], in_use: Mapping[str, int]) -> str:
    """What keeps a ready step from being placed; "" if it waits for nothing but its turn for a slot.

    Args:
        run: Of the step.
        step: Its index.
        workers: All that there are.
        in_use: How many steps are assigned that count for a limit.
    """
    if not workers:
        return "no worker is registered"
    able = [worker for worker in workers if not (worker.is_suspect or worker.is_leaving)]
    aside = ", ".join(_standing(worker) for worker in workers if worker not in able)
    if not able:
        return f"no worker takes anything now: {aside}"
    demand = demand_of(run.life.spec(step), run.life.limits) or plain_demand(run.life.spec(step).lane)
    lacking = shortage(demand, [worker.offer for worker in able])
    if lacking:
        return lacking + (f"; not counted: {aside}" if aside else "")
    return _used_up(demand, in_use) or _not_free(run, demand, able)


def _standing(worker: Worker) -> str:
    return f"{worker.name} ({'suspect' if worker.is_suspect else 'leaving'})"


def _used_up(demand: Demand, in_use: Mapping[str, int]) -> str:
    for name, most in demand.limits:
        if in_use.get(name, 0) >= most:
            if name.startswith(CAP):
                return f"its run has max_parallel_steps={most:,}, and so many of its steps are assigned"
            return f"the limit {name!r} is {most:,}, and {in_use[name]:,} steps that count for it are assigned"
    return ""


def _not_free(run: Run, demand: Demand, able: Collection[Worker]) -> str:
    lacking = shortage(demand, [_free(worker) for worker in able], "has free")
    if lacking:
        return lacking if demand.slots > 1 or demand.needs else ""
    others = [worker for worker in able if _is_kept_for_another(worker, run, demand)]
    if not shortage(demand, [_free(worker) for worker in able if worker not in others]):
        return ""
    names = ", ".join(worker.name for worker in others if not shortage(demand, [_free(worker)]))
    return f"what is free is kept for a step that takes more and has waited long: {names}"


def _is_kept_for_another(worker: Worker, run: Run, demand: Demand) -> bool:
    kept = worker.reservation
    return kept is not None and kept.demand.lane == demand.lane and kept != (run, demand)


def _free(worker: Worker) -> Offer:
    cpu, io, permits = [max(0, slots - out) for slots, out in zip(worker.slots, worker.out, strict=True)]
    return Offer((cpu, io, permits), worker.left)
