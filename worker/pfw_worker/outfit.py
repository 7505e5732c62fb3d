"""What a slot is started with: threads and GPUs, as its environment says them. Pure.

A step that wants another outfit than a slot has gets a fresh process: libraries read these variables only once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

#: How the libraries that start threads of their own are told how many.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS",
)  # fmt: skip
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


class Outfit(NamedTuple):
    """What a slot was started with."""

    #: CPU slots, which are threads too.
    slots: int
    #: Numbers of its GPUs, from 0.
    gpus: tuple[int, ...]
    #: (function, limit) of the steps with a memory limit that alone run in it: what others left there is not theirs.
    limited: tuple[int, int] | None = None


class Need(NamedTuple):
    """What an attempt wants of its slot."""

    slots: int
    gpus: int
    #: The most memory it may hold, bytes; 0: no limit of its own.
    memory: int
    #: What it calls.
    function: int

    @property
    def limited(self) -> tuple[int, int] | None:
        """What its slot is kept for."""
        return (self.function, self.memory) if self.memory else None


def environment_of(outfit: Outfit, names: Sequence[str] = ()) -> dict[str, str]:
    """The variables that a slot of this outfit has; `names` are those of the machine's GPUs, if it has any."""
    found = dict.fromkeys(THREAD_VARIABLES, str(outfit.slots))
    gpus = [names[gpu] if names else str(gpu) for gpu in outfit.gpus]
    return {**found, GPU_VARIABLE: ",".join(gpus)} if gpus else found


def choose_outfit(need: Need, idle: Iterable[Outfit], gpus: int, taken: Collection[int]) -> Outfit | None:
    """The outfit for an attempt: one that an idle slot has, if that can be; None while too few GPUs are free.

    Args:
        need: Of the attempt.
        idle: Outfits of idle slots.
        gpus: How many GPUs the worker has.
        taken: GPUs of slots that are busy.
    """
    for outfit in idle:
        wanted = need.slots, need.gpus, need.limited
        if (outfit.slots, len(outfit.gpus), outfit.limited) == wanted and not set(outfit.gpus) & set(taken):
            return outfit
    free = [gpu for gpu in range(gpus) if gpu not in taken]
    return Outfit(need.slots, tuple(free[: need.gpus]), need.limited) if len(free) >= need.gpus else None
