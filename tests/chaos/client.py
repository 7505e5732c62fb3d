"""A client in a process of its own: submits runs under their keys, says their ids, waits, and tells how they ended.

Killed and started again it asks for the same runs, and must be given the same ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chaos.plan import draw
from pfw import Client


def main(address: str, folder: str, seed: int, is_long: bool) -> None:
    """Args:
    address: Of the coordinator, or of what leads there.
    folder: Of the world.
    seed: Of the world.
    is_long: Whether it is a long one.
    """
    plans = [run for run in draw(seed, is_long=is_long).runs if run.is_elsewhere]
    with Client(address, timeout=20.0) as client:
        runs = [
            client.start(plan.build(Path(folder)), key=f"run {plan.number}", mode=plan.mode, keep="all",
                         on_failure="continue")
            for plan in plans
        ]  # fmt: skip
        _write(Path(folder, "ids"), {plan.number: run.id for plan, run in zip(plans, runs, strict=True)})
        for run in runs:
            run.wait()
        _write(Path(folder, "ends"), {plan.number: run.status for plan, run in zip(plans, runs, strict=True)})


def _write(path: Path, what: dict[int, str]) -> None:
    """One line more, whole or not at all."""
    with path.open("a") as file:
        file.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "long")
