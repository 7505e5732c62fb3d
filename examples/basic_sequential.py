"""Extract, transform, load, one step after another in this process: `mode="sequential"`.

Run it with `python examples/basic_sequential.py`. Breakpoints work in this mode; values pass through the same pickling
as on a cluster, so what works here works there.
"""

from __future__ import annotations

from typing import TypedDict

from pfw import Run, Workflow, run, step

CSV = """\
sensor,celsius
north,21.5
north,22.5
south,broken
south,30.0
east,18.0
"""


class Row(TypedDict):
    """One reading."""

    sensor: str
    celsius: float


@step
def extract(text: str) -> list[tuple[str, str]]:
    """Splits the lines of the file, without its header."""
    pairs = (line.split(",") for line in text.splitlines()[1:])
    return [(sensor, celsius) for sensor, celsius in pairs]


@step
def transform(pairs: list[tuple[str, str]]) -> list[Row]:
    """Makes numbers of the readings; drops those that are none."""
    rows: list[Row] = []
    for sensor, celsius in pairs:
        try:
            rows.append({"sensor": sensor, "celsius": float(celsius)})
        except ValueError:
            print(f"  dropped: {sensor} says {celsius!r}")
    return rows


@step
def load(rows: list[Row]) -> dict[str, float]:
    """Gives the mean of each sensor; a real one would write to a database."""
    means: dict[str, list[float]] = {}
    for row in rows:
        means.setdefault(row["sensor"], []).append(row["celsius"])
    return {sensor: sum(values) / len(values) for sensor, values in means.items()}


def main() -> Workflow:
    """Makes the workflow."""
    with Workflow("basic sequential") as workflow:
        load(transform(extract(CSV)))
    return workflow


def show(found: Run) -> None:
    """Prints what came out of each step and what it took."""
    for step_id, measured in found.metrics.steps.items():
        print(f"{step_id:10} {measured.status:10} {measured.run_time * 1000:6.2f} ms   {found.outputs[step_id]}")
    metrics = found.metrics
    print(f"{metrics.successful_steps} of {metrics.total_steps} steps in {metrics.total_duration * 1000:.1f} ms")


if __name__ == "__main__":
    workflow = main()
    print("order:", " -> ".join(workflow.order()))
    found = run(workflow, mode="sequential", keep="all")
    show(found)
    print("means:", found.value)
