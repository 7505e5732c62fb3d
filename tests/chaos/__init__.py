"""Worlds of real daemons in which processes and connections are hurt at seeded moments; what they promise still holds.

`plan` draws a world from its seed, `world` lives it, `oracle` says whether the promises of docs/failures.md were kept.
"""
