"""Seeded worlds: the real cores and sessions on a virtual clock, and a network that misbehaves.

A world draws everything from its seed: the graphs, what steps do, what clients ask for, and which faults happen when.
Faults end after a while; then every run must end too. `python -m sim SEED` (with the source roots and `tests` on the
path) runs one world and prints its story.
"""
