"""`python -m pfw_worker` is the command `pfw-worker`."""

from __future__ import annotations

from pfw_worker.cli import main

main(prog_name="pfw-worker")
