"""What a step costs in sequential mode, over the plain loop that does the same."""

from __future__ import annotations

from benches._common import Bench, Figures, Line, expect, main, stopwatch

from pfw import Workflow, run, step

STEPS = 20_000


def increment(number: int) -> int:
    """The step."""
    return number + 1


def pfw_round() -> Figures:
    """Independent steps, then a chain; building the workflow is counted apart."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "build"):
        with Workflow("sequential") as workflow:
            step(increment).map(range(STEPS))
        workflow.compile()
    with stopwatch(figures, "fan-out"):
        value = run(workflow, mode="sequential").value
    expect(value, list(range(1, STEPS + 1)), "fan-out in sequential mode")
    with Workflow("chain") as workflow:
        function = step(increment)
        node = function(0)
        for _ in range(STEPS - 1):
            node = function(node)
    workflow.compile()
    with stopwatch(figures, "chain"):
        value = run(workflow, mode="sequential").value
    expect(value, STEPS, "chain in sequential mode")
    return {name: seconds / STEPS * 1e6 for name, seconds in figures.items()}


def loop_round() -> Figures:
    """The plain loop."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "loop"):
        value = [increment(number) for number in range(STEPS)]
    expect(value, list(range(1, STEPS + 1)), "plain loop")
    return {"loop": figures["loop"] / STEPS * 1e6}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    pfw_round()
    found = bench.play(pfw_round, loop_round)

    def over_loop(name: str) -> list[float]:
        return [mine - loop for mine, loop in zip(found[name], found["loop"], strict=True)]

    bench.add(
        Line(
            f"sequential mode, {STEPS:,} independent no-op steps: `run(wf).value` over a plain loop",
            "µs/step",
            over_loop("fan-out"),
            target=10,
        ),
        Line(f"    a chain of {STEPS:,}: over a plain loop", "µs/step", over_loop("chain")),
        Line("    building and compiling the workflow", "µs/step", found["build"]),
        Line("    the plain loop", "µs/step", found["loop"]),
    )


if __name__ == "__main__":
    main(measure)
