"""`python -m pfw_coordinator` is the command `pfw-coordinator`."""

from pfw_coordinator.cli import main

main(prog_name="pfw-coordinator")
