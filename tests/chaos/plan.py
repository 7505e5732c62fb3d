"""What is going to happen in a world, drawn from its seed: its workers, its runs, and who is hurt when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from chaos import work
from pfw import Workflow, step
from pfw.node import Node

#: Lanes of steps, and their hints; of those with an `async def` function the lane follows.
HINTS = {"cpu": "light_cpu", "io": "light_io"}

#: What may be hurt, how often it is drawn, and for how many seconds; the longest ones only in long worlds.
HARMS: dict[str, tuple[int, tuple[float, ...]]] = {
    "slot killed": (2, (0,)),
    "async process killed": (1, (0,)),
    "spawner killed": (1, (0,)),
    "worker killed": (2, (0,)),
    "worker and spawner killed": (1, (0,)),
    "worker drained": (1, (0,)),
    "worker stopped": (2, (0.2, 1.0, 4.0, 11.5)),
    "coordinator stopped": (1, (0.2, 1.0, 4.0)),
    "client killed": (2, (0,)),
    "link cut": (3, (0,)),
    "link frozen": (3, (0.2, 1.0, 4.5, 11.5)),
    "link shut": (2, (0.2, 1.0, 4.5, 11.5)),
    "link slow": (2, (0.3, 1.0)),
}
#: From here on it may cost a worker the steps that it holds.
LONG_S = 2.0
#: Steps have three losses of their worker and three crashes: so many of each do not end them.
MOST_LOSSES, MOST_CRASHES = 2, 1
_LOSSES = ("spawner killed", "worker killed", "worker and spawner killed", "worker drained")
_CRASHES = ("slot killed", "async process killed")


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step, by what it does."""

    lane: str
    does: str
    seconds: float
    needs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run. Its kind says what must become of it."""

    number: int
    #: "succeeds", "fails", "is cancelled", "once" (steps that may not be rerun), "calls" (single calls)
    kind: str
    steps: tuple[StepPlan, ...]
    mode: str = "parallel"
    #: Submitted by a process of its own, which may be killed.
    is_elsewhere: bool = False

    def build(self, folder: Path) -> Workflow:
        """Its workflow; what it notes down goes to the folder."""
        nodes: list[Node] = []
        with Workflow(f"{self.kind} {self.number}") as wf:
            for number, plan in enumerate(self.steps):
                fn = step(work.work_async) if plan.lane == "async" else step(work.work, hint=HINTS[plan.lane])
                options = work.OPTIONS.get(plan.does, {})
                chosen = fn.options(id=f"s{number}", rerun_on_loss=self.kind != "once", **options)
                inputs = [nodes[needed] for needed in plan.needs]
                nodes.append(chosen(str(folder), self.number, number, plan.does, plan.seconds, inputs))
        return wf

    def values(self) -> dict[str, int]:
        """What each step that can succeed must return: `{id: value}`."""
        values: dict[str, int] = {}
        for number, plan in enumerate(self.steps):
            inputs = [values.get(f"s{needed}") for needed in plan.needs]
            if None in inputs or plan.does in ("raises", "hangs", "obeys", "ignores"):
                continue
            value = work.combine(number, [known for known in inputs if known is not None])
            values[f"s{number}"] = work.grown_value(value) if plan.does == "grows" else value
        return values

    def states(self) -> dict[str, str]:
        """In which state each step must end, where nobody cancels it: `{id: state}`."""
        values = self.values()
        failed = {"raises": "FAILED", "hangs": "TIMED_OUT"}
        states: dict[str, str] = {}
        for number, plan in enumerate(self.steps):
            is_skipped = any(f"s{needed}" not in values for needed in plan.needs)
            states[f"s{number}"] = "SKIPPED" if is_skipped else failed.get(plan.does, "SUCCEEDED")
        return states


@dataclass(frozen=True, slots=True)
class Harm:
    """Somebody is hurt."""

    kind: str
    #: As soon as so many attempts have begun in the world.
    after: int
    seconds: float
    #: Who, among those there are then.
    chance: float

    @property
    def is_loss(self) -> bool:
        """Whether a worker may lose what it holds."""
        return self.kind in _LOSSES or (self.seconds > LONG_S and self.kind != "coordinator stopped")

    @property
    def is_crash(self) -> bool:
        """Whether a step's process dies while its worker lives."""
        return self.kind in _CRASHES


@dataclass(frozen=True, slots=True)
class Plan:
    """One world."""

    #: (CPU slots, IO slots) of each.
    workers: tuple[tuple[int, int], ...]
    runs: tuple[RunPlan, ...]
    harms: tuple[Harm, ...]


def draw(seed: int, *, is_long: bool) -> Plan:
    """The world of this seed; a long one has more of everything, and is hurt for longer."""
    random = Random(seed)
    workers = tuple((random.randint(1, 2), random.randint(1, 3)) for _ in range(random.randint(2, 3 + is_long)))
    kinds = ["succeeds", "is cancelled", "calls"]
    kinds += random.choices(("succeeds", "fails", "is cancelled", "once", "calls"), k=3 if is_long else 1)
    most_steps = 60 if is_long else 30
    runs = tuple(_draw_run(random, number, kind, most_steps) for number, kind in enumerate(kinds))
    begins = sum(len(run.states()) for run in runs if run.kind not in ("is cancelled", "calls"))
    return Plan(workers, runs, tuple(_draw_harms(random, int(0.8 * begins), is_long=is_long)))


def _draw_run(random: Random, number: int, kind: str, most_steps: int) -> RunPlan:
    count = random.randint(most_steps // 2, most_steps)
    does = {
        "succeeds": ("sleeps",) * 6 + ("burns",) * 3 + ("grows", "recovers", "crashes", "leaves"),
        "fails": ("sleeps",) * 6 + ("burns", "recovers", "raises", "hangs"),
        "is cancelled": ("sleeps", "sleeps", "obeys", "ignores"),
        "once": ("sleeps", "burns"),
        "calls": ("sleeps",),
    }[kind]
    steps = []
    for position in range(count):
        act, lane = random.choice(does), random.choice(("cpu", "cpu", "io", "async"))
        if lane == "async":
            act = act if act == "hangs" else "sleeps"
        needs = random.sample(range(position), min(position, random.choice((0, 1, 1, 2))))
        steps.append(StepPlan(lane, act, random.choice((0.0, 0.01, 0.05, 0.15)), tuple(sorted(needs))))
    if kind == "is cancelled":  # it cannot end before
        steps.insert(0, StepPlan("io", random.choice(("obeys", "ignores")), 0.0, ()))
        steps[1:] = [
            StepPlan(plan.lane, plan.does, plan.seconds, tuple(needed + 1 for needed in plan.needs))
            for plan in steps[1:]
        ]
    mode = "waves" if kind in ("succeeds", "fails") and random.random() < 0.2 else "parallel"
    is_elsewhere = kind in ("succeeds", "fails", "once") and (number == 0 or random.random() < 0.5)
    return RunPlan(number, kind, tuple(steps), mode, is_elsewhere)


def _draw_harms(random: Random, most: int, *, is_long: bool) -> list[Harm]:
    kinds, weights = list(HARMS), [weight for weight, _ in HARMS.values()]
    harms: list[Harm] = []
    for kind in random.choices(kinds, weights, k=random.randint(6, 12) if is_long else 5):
        seconds = random.choice([each for each in HARMS[kind][1] if is_long or each < LONG_S])
        harm = Harm(kind, random.randint(1, max(1, most)), seconds, random.random())
        losses, crashes = sum(each.is_loss for each in harms), sum(each.is_crash for each in harms)
        if losses + harm.is_loss <= MOST_LOSSES and crashes + harm.is_crash <= MOST_CRASHES:
            harms.append(harm)
    return sorted(harms, key=lambda harm: harm.after)
