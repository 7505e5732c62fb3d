"""What a world is going to do, drawn from its seed: graphs, how steps behave, what clients ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from pfw import outcome as oc
from pfw.expansion import Fragment
from pfw.graph import IF_ALWAYS, IF_ANY, LANE_ASYNC, LANE_CPU, LANE_IO, Graph, Spec
from pfw.graphs import pack_fragment

#: What a step does when it is told to stop: it listens to the token, to the interrupt, or to nothing but SIGKILL.
LISTENS_TO_TOKEN, LISTENS_TO_INTERRUPT, LISTENS_TO_NOTHING = 1, 2, 9

_SPECS = (
    Spec(LANE_CPU, 0, 0, 0.1, 2.0, 30.0, 1, 2.0),
    Spec(LANE_CPU, 0, 2, 0.05, 2.0, 0.3, 0, 0.2),
    Spec(LANE_CPU, 1, 1, 0.2, 2.0, 30.0, 1, 0.5),
    Spec(LANE_IO, 0, 1, 0.1, 3.0, 1.0, 1, 0.4),
    Spec(LANE_IO, 1, 0, 0.1, 2.0, 30.0, 1, 2.0),
    Spec(LANE_ASYNC, 0, 1, 0.01, 2.0, 30.0, 0, 0.3),
    Spec(LANE_CPU, 0, 1, 0.05, 2.0, 0.3, 0, 0.4, run_if=IF_ANY),
    Spec(LANE_IO, 0, 1, 0.05, 2.0, 0.3, 0, 0.4, run_if=IF_ALWAYS, priority=2),
    Spec(LANE_CPU, 0, 2, 0.05, 2.0, 0.3, 0, 0.2, timeout=0.05, retries_timeouts=1),
    Spec(LANE_IO, 0, 1, 0.1, 2.0, 30.0, 1, 0.4, timeout=0.3),
    Spec(LANE_ASYNC, 0, 1, 0.01, 2.0, 30.0, 0, 0.3, timeout=0.2, retries_timeouts=1),
    Spec(LANE_CPU, 0, 0, 0.1, 2.0, 30.0, 1, 0.5, reruns=0),
    Spec(LANE_ASYNC, 0, 0, 0.1, 2.0, 30.0, 1, 0.5, reruns=0),
    Spec(LANE_CPU, 1, 1, 0.1, 2.0, 1.0, 1, 0.3, slots=2),
    Spec(LANE_CPU, 1, 0, 0.1, 2.0, 30.0, 1, 0.5, needs=(("gpu", 1),)),
    Spec(LANE_IO, 1, 1, 0.1, 2.0, 1.0, 1, 0.5, needs=(("heavy_io", 1), ("licence", 2)), limits=(("api", 3),)),
    Spec(LANE_CPU, 0, 1, 0.1, 2.0, 1.0, 1, 0.5, limits=(("api", 2),)),
    Spec(LANE_ASYNC, 0, 1, 0.01, 2.0, 30.0, 0, 0.3, needs=(("licence", 1),), limits=(("api", 2),)),
)
#: Steps of each run have specs of one of these; those with timeouts only where there is trouble with them.
_MIXES = (
    (0,), (0, 1), (0, 1, 2, 3, 4, 5), (3,), (5, 0), (11,), (0, 11, 12, 5),
    (0, 13, 14), (13, 16, 3), (15, 17), (0, 1, 4, 5, *range(13, 18)),
)  # fmt: skip
_MIXES_WITH_TIMEOUTS = ((8,), (0, 1, 8), (8, 9, 10, 12), (10, 5), (0, 1, 2, 3, 4, 5, 8, 9, 10, 11))
#: Not for open runs.
_TOLERANT_MIXES = ((0, 1, 6, 7), (3, 7))


@dataclass(slots=True)
class StepPlan:
    """How one step behaves in its attempts."""

    inputs: tuple[int, ...]
    after: tuple[int, ...]
    duration_s: float
    #: Outcome of the first attempts; later ones are OK.
    codes: tuple[int, ...] = ()
    listens_to: int = LISTENS_TO_TOKEN
    output_bytes: int = 8
    #: What takes its place when it has succeeded, the last one as tail, and the numbers of their specs.
    inner: list[StepPlan] = field(default_factory=list)
    inner_specs: list[int] = field(default_factory=list)

    def code_of(self, attempt: int) -> int:
        """How this attempt ends, if nothing comes between."""
        if attempt <= len(self.codes):
            return self.codes[attempt - 1]
        return oc.EXPANDED if self.inner else oc.OK


@dataclass(slots=True)
class RunPlan:
    """One run: what is submitted, and what its client does with it later."""

    number: int
    mode: str
    on_failure: str
    keep: tuple[int, ...]
    keep_all: bool
    is_open: bool
    is_detached: bool
    priority: int
    steps: list[StepPlan]
    submit_at: float
    functions: list[bytes]
    function_of: list[int]
    spec_of: list[int]
    #: Steps of each fragment of an open run, and when it is sent.
    fragments: list[tuple[float, int]] = field(default_factory=list)
    #: The open run is closed right after its last fragment, not when everything has ended.
    closes_early: bool = False
    #: (when, step) of each call of an open run that is cancelled alone.
    cancelled_calls: list[tuple[float, int]] = field(default_factory=list)
    #: When the run is cancelled; None for never.
    cancel_at: float | None = None
    #: A second cancel so much later, that kills what runs.
    urgent_after: float | None = None
    #: When another client attaches; None for never.
    attach_at: float | None = None
    #: How long the run may take, s; 0: as long as it takes.
    timeout_s: float = 0.0
    #: As in Submit.
    max_parallel: int = 0

    def graph(self, first: int, last: int) -> Graph:
        """The steps from `first` to `last`, as they are submitted. The call of a step names it."""
        steps = self.steps[first:last]
        return Graph(
            [f"step-{number}" for number in range(first, last)],
            self.functions,
            list(_SPECS),
            self.function_of[first:last],
            self.spec_of[first:last],
            [b"%d/%d" % (self.number, number) for number in range(first, last)],
            [step.inputs for step in steps],
            [step.after for step in steps],
        )

    def earlier_like(self, first: int, last: int) -> int | None:
        """A step before `first` that those from there to `last` are like, if there is one and they need no `after`."""
        kinds = list(zip(self.function_of, self.spec_of, strict=True))
        if len(set(kinds[first:last])) > 1 or any(step.after for step in self.steps[first:last]):
            return None
        return kinds.index(kinds[first]) if kinds[first] in kinds[:first] else None

    def fragment(self, number: int) -> bytes:
        """What takes the place of a step, packed. The call of an inner step names it and the step around it."""
        step = self.steps[number]
        count = len(step.inner)
        return pack_fragment(
            Fragment(
                Graph(
                    [f"step-{number}/{inner}" for inner in range(count)],
                    self.functions,
                    list(_SPECS),
                    [inner % len(self.functions) for inner in range(count)],
                    step.inner_specs,
                    [b"%d/%d.%d" % (self.number, number, inner) for inner in range(count)],
                    [inner.inputs for inner in step.inner],
                    [inner.after for inner in step.inner],
                )
            )
        )

    def find(self, step_id: str) -> list[tuple[StepPlan, Spec]]:
        """The step of this id and how it is to be run, and after it what may take its place."""
        number, _, inner = step_id.removeprefix("step-").partition("/")
        step = self.steps[int(number)]
        within = [(plan, _SPECS[spec]) for plan, spec in zip(step.inner, step.inner_specs, strict=True)]
        return [within[int(inner)]] if inner else [(step, self.spec(int(number))), *within]

    @property
    def is_clean(self) -> bool:
        """Whether nothing but success can come of it as long as nothing else fails."""
        may_end_early = self.cancel_at is not None or self.timeout_s > 0 or self.cancelled_calls
        return not may_end_early and not any(
            step.codes or may_time_out(step, spec)
            for number in range(len(self.steps))
            for step, spec in self.find(f"step-{number}")
        )

    def spec(self, step: int) -> Spec:
        """How a step is to be run."""
        return _SPECS[self.spec_of[step]]


def may_time_out(step: StepPlan, spec: Spec) -> bool:
    """Whether an attempt of the step takes about as long as it may, or longer."""
    return 0 < spec.timeout < step.duration_s * 1.1 + 0.001


@dataclass(frozen=True, slots=True)
class Trouble:
    """How much of what goes wrong within runs."""

    #: Probability that a step fails, that it crashes its slot, that a run is cancelled.
    failure: float = 0.0
    crash: float = 0.0
    cancel: float = 0.0
    #: Probability that a run has steps with timeouts, and that it has one itself.
    timeout: float = 0.0


NO_TROUBLE = Trouble()


def draw_run(random: Random, number: int, trouble: Trouble, *, most_steps: int) -> RunPlan:
    """One run."""
    is_open = random.random() < 0.25
    count = random.randint(1, most_steps)
    speed = random.choice((1e-5, 1e-4, 1e-3, 0.02, 0.3))
    functions = [b"function-%d" % random.randrange(6) for _ in range(random.randint(1, 3))]
    functions = list(dict.fromkeys(functions))
    mixes = _MIXES_WITH_TIMEOUTS if random.random() < trouble.timeout else _MIXES
    mix = random.choice(mixes if is_open else (*mixes, *_TOLERANT_MIXES))
    has_lines = not is_open and random.random() < 0.3
    if has_lines:  # chains of short steps that are alike: most of one is sent along with its first
        speed, mix, functions = random.choice((1e-5, 1e-4)), random.choice(((0,), (0, 0, 1), (3,))), functions[:1]
    plan = RunPlan(
        number=number,
        mode="waves" if not is_open and random.random() < 0.2 else "parallel",
        on_failure="continue" if is_open else random.choice(("stop", "continue", "abort")),
        keep=tuple(sorted(random.sample(range(count), min(count, 2)))) if not is_open else (),
        keep_all=random.random() < (0.8 if has_lines else 0.2),
        is_open=is_open,
        is_detached=not is_open and random.random() < 0.3,
        priority=random.choice((0, 0, 0, 3)),
        steps=_draw_steps(random, count, speed, trouble, has_lines=has_lines),
        submit_at=random.uniform(0.0, 2.5),
        functions=functions,
        function_of=[random.randrange(len(functions)) for _ in range(count)],
        spec_of=[random.choice(mix) for _ in range(count)],
    )
    for step in plan.steps:
        if random.random() < (0.4 if is_open else 0.15):
            step.inner = _draw_steps(random, random.randint(1, 4), speed, trouble)
            needed = {other for inner in step.inner[:-1] for other in (*inner.inputs, *inner.after)}
            rest = tuple([number for number in range(len(step.inner) - 1) if number not in needed])
            step.inner[-1].inputs, step.inner[-1].after = rest, ()
            step.inner_specs = [random.choice(mix) for _ in step.inner]
    if is_open:
        plan.fragments = _draw_fragments(random, count)
        plan.closes_early = random.random() < 0.3
        plan.cancelled_calls = _draw_cancelled_calls(random, plan)
    if random.random() < trouble.cancel:
        plan.cancel_at = plan.submit_at + random.choice((0.0, 0.002, 0.05, 0.5, 2.0)) * random.random()
        plan.urgent_after = random.choice((None, None, 0.0, 0.001, 0.2))
        if random.random() < 0.2:  # one that has to be killed
            deaf = random.choice(plan.steps)
            deaf.duration_s, deaf.listens_to = 5.0, LISTENS_TO_NOTHING
    if not is_open and random.random() < trouble.timeout / 2:
        plan.timeout_s = random.choice((0.01, 0.2, 1.0, 3.0))
    if random.random() < 0.15:
        plan.attach_at = plan.submit_at + random.uniform(0.0, 3.0)
    plan.max_parallel = random.choice((0, 0, 0, 0, 1, 3))
    return plan


def _draw_steps(
    random: Random, count: int, speed: float, trouble: Trouble, *, has_lines: bool = False
) -> list[StepPlan]:
    steps: list[StepPlan] = []
    shape = "lines" if has_lines else random.choice(("any", "chain", "fan", "layers"))
    for number in range(count):
        inputs, after = _draw_dependencies(random, shape, number)
        step = StepPlan(inputs, after, speed * random.choice((0.1, 1.0, 1.0, 4.0)))
        step.listens_to = random.choice((LISTENS_TO_TOKEN, LISTENS_TO_TOKEN, LISTENS_TO_INTERRUPT, LISTENS_TO_NOTHING))
        step.output_bytes = random.choice((8, 8, 8, 100, 1000))
        chance = random.random()
        if chance < trouble.failure:
            step.codes = random.choice(((oc.RETRYABLE,), (oc.RETRYABLE,) * 2, (oc.RETRYABLE,) * 4, (oc.ERROR,)))
        elif chance < trouble.failure + trouble.crash:
            step.codes = (oc.CRASHED,) * random.randint(1, 3)
        steps.append(step)
    return steps


def _draw_dependencies(random: Random, shape: str, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not number:
        return (), ()
    if shape == "chain":
        chosen = [number - 1]
    elif shape == "lines":
        return ((number - 1,) if random.random() < 0.9 else (), ())
    elif shape == "fan":
        chosen = [0] if random.random() < 0.8 else list(range(number))[-8:]
    elif shape == "layers":
        layer = number // 4 * 4
        chosen = random.sample(range(layer - 4, layer), random.randint(1, 4)) if layer else []
    else:
        chosen = random.sample(range(number), min(number, random.choice((0, 1, 1, 2, 3))))
    cut = random.randint(0, len(chosen)) if random.random() < 0.5 else len(chosen)
    return tuple(chosen[:cut]), tuple(chosen[cut:])


def _draw_cancelled_calls(random: Random, plan: RunPlan) -> list[tuple[float, int]]:
    chance, last_s = random.choice((0.0, 0.0, 0.3)), plan.fragments[-1][0]
    return [
        (plan.submit_at + random.choice((0.0, last_s, last_s + 0.05, last_s + 2.0)) * random.random(), step)
        for step in range(len(plan.steps))
        if random.random() < chance
    ]


def _draw_fragments(random: Random, count: int) -> list[tuple[float, int]]:
    fragments: list[tuple[float, int]] = []
    left, at = count, 0.0
    while left:
        size = min(left, random.choice((1, 1, 2, 5)))
        at += random.choice((0.0, 0.0, 0.001, 0.1, 1.0))
        fragments.append((at, size))
        left -= size
    return fragments
