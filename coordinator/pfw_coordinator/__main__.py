"""`python -m pfw_coordinator` is the command `pfw-coordinator`."""

from __future__ import annotations

from pfw_coordinator.cli import main

main(prog_name="pfw-coordinator")
