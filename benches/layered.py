"""Steps with three dependencies each: 10 layers of 1,000."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch
from benches._dag import Call, build, resubmit, serial, warm_pool

from pfw import LocalCluster, Workflow, run, step

LAYERS, WIDTH = 10, 1_000
#: What step j of a layer needs of the layer before.
NEEDED = [tuple((a * j + b) % WIDTH for a, b in ((7, 1), (13, 5), (29, 11))) for j in range(WIDTH)]


def source(number: int) -> int:
    """A step of the first layer."""
    return number


def combine(a: int, b: int, c: int) -> int:
    """A step of all others."""
    return (a + b + c + 1) % 1_000_003


def make_calls() -> list[Call]:
    """Step j of a layer needs steps 7j+1, 13j+5 and 29j+11 (modulo 1,000) of the layer before."""
    calls = [Call(source, (j,), ()) for j in range(WIDTH)]
    for layer in range(1, LAYERS):
        before = (layer - 1) * WIDTH
        calls += [Call(combine, (), tuple(before + other for other in needed)) for needed in NEEDED]
    return calls


CALLS = make_calls()
WANTED = range(len(CALLS) - WIDTH, len(CALLS))
EXPECTED = serial(CALLS)


def build_layers() -> Workflow:
    """The workflow as its author would write it: a layer is a map."""
    first, further = step(source, hint="light_cpu"), step(combine, hint="light_cpu")
    with Workflow("layered") as workflow:
        layer = first.map(range(WIDTH))
        for _ in range(1, LAYERS):
            before = list(layer)
            layer = further.starmap([(before[a], before[b], before[c]) for a, b, c in NEEDED])
        workflow.returns(layer)
    return workflow


def pfw_round(cluster: LocalCluster) -> Figures:
    """Builds, submits, runs, and reads the last layer: by maps, and added step by step."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "by maps"):
        value = run(build_layers(), on=cluster).value
    expect(value, EXPECTED[-WIDTH:], "layers")
    with stopwatch(figures, "one by one"):
        value = run(build("layered", CALLS, WANTED), on=cluster).value
    expect(value, EXPECTED[-WIDTH:], "layers, added step by step")
    return {way: len(CALLS) / s for way, s in figures.items()}


def executor_round(pool: ProcessPoolExecutor) -> Figures:
    """The same on an executor."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        outputs = resubmit(pool, CALLS)
    expect(outputs, EXPECTED, "layers on an executor")
    return {"executor": len(CALLS) / figures["s"]}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    with warm_pool(CPU) as pool, LocalCluster(cpu=CPU) as cluster:
        pfw_round(cluster)
        found = bench.play(lambda: pfw_round(cluster), lambda: executor_round(pool))
    for way in ("by maps", "one by one"):
        bench.add(
            Line(
                f"{LAYERS} layers of {WIDTH:,} steps with 3 dependencies each, added {way}",
                "steps/s",
                found[way],
                target=40_000,
                is_rate=True,
                reference=f"ProcessPoolExecutor({CPU}), resubmitting",
                reference_figures=found["executor"],
            )
        )


if __name__ == "__main__":
    main(measure)
