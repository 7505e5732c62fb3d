"""The smallest workflow: extract, transform, load. Each call inside the block becomes a step of the workflow.

Run it with `python examples/etl.py`. It reads this file and writes its lines in capitals to a temporary one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pfw import Workflow, run, step


@step(hint="light_io", retry=2)
def extract(path: str) -> list[str]:
    """Reads the lines of a file."""
    return Path(path).read_text("utf-8").splitlines()


@step
def transform(rows: list[str]) -> list[str]:
    """Puts the lines that are not empty in capitals."""
    return [row.upper() for row in rows if row]


@step(hint="light_io")
def load(rows: list[str], destination: str) -> int:
    """Writes the lines to a file; returns how many there are."""
    Path(destination).write_text("\n".join(rows) + "\n", "utf-8")
    return len(rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        destination = Path(folder, "out.txt")
        with Workflow("etl") as workflow:
            load(transform(extract(__file__)), str(destination))
        count = run(workflow).value
        print(f"{count} lines written, the first is {destination.read_text('utf-8').splitlines()[0]}")
