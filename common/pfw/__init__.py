"""pfw: a cluster of worker processes for workflows of Python functions.

>>> from pfw import Workflow, run, step
>>> @step
... def double(x):
...     return 2 * x
>>> with Workflow("doubles") as wf:
...     doubled = double.map(range(3))
>>> run(wf, mode="sequential").value
[0, 2, 4]

Importing this package loads none of its dependencies; they are loaded by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pfw.cancellation import CancellationToken
from pfw.context import StepContext, current
from pfw.errors import (
    ClusterError,
    ConfigError,
    CoordinatorLostError,
    CycleError,
    DuplicateStepError,
    EmptyWorkflowError,
    GraphError,
    InternalError,
    MemoryLimitError,
    MissingModuleError,
    OutputNotKeptError,
    PfwError,
    ProtocolError,
    RetryExhaustedError,
    RunCancelledError,
    RunTimeoutError,
    StalledError,
    StepCrashedError,
    StepFailedError,
    StepInterrupt,
    StepTimeoutError,
    UnknownDependencyError,
    UnknownRunError,
    UnpicklableError,
    UnschedulableError,
    VersionMismatchError,
    WorkerLostError,
)
from pfw.hint import Hint
from pfw.node import When
from pfw.retry import Retry
from pfw.step import StepFunction, step
from pfw.stepclass import Step
from pfw.version import __version__
from pfw.workflow import BranchNode, ItemNode, LateMapNode, MapNode, Node, Workflow

if TYPE_CHECKING:
    from pfw.bar import BarProgress
    from pfw.client import Client
    from pfw.cluster import LocalCluster
    from pfw.config import Config
    from pfw.events import Event
    from pfw.futures import Future
    from pfw.metrics import AttemptMetrics, StepMetrics, WaveMetrics, WorkflowMetrics
    from pfw.receipt import CancelReceipt, StepEnd
    from pfw.running import arun, run, start
    from pfw.runs import Run
    from pfw.tolerance import Failed
    from pfw.trackers import CallbackProgress, ConsoleProgress, FileProgress, Tracker

#: Loaded when first used: they need the dependencies.
_LAZY = {
    "AttemptMetrics": "pfw.metrics",
    "BarProgress": "pfw.bar",
    "CallbackProgress": "pfw.trackers",
    "CancelReceipt": "pfw.receipt",
    "Client": "pfw.client",
    "Config": "pfw.config",
    "ConsoleProgress": "pfw.trackers",
    "Event": "pfw.events",
    "Failed": "pfw.tolerance",
    "FileProgress": "pfw.trackers",
    "Future": "pfw.futures",
    "LocalCluster": "pfw.cluster",
    "Run": "pfw.runs",
    "StepEnd": "pfw.receipt",
    "StepMetrics": "pfw.metrics",
    "Tracker": "pfw.trackers",
    "WaveMetrics": "pfw.metrics",
    "WorkflowMetrics": "pfw.metrics",
    "arun": "pfw.running",
    "run": "pfw.running",
    "start": "pfw.running",
}

__all__ = [
    "AttemptMetrics",
    "BarProgress",
    "BranchNode",
    "CallbackProgress",
    "CancelReceipt",
    "CancellationToken",
    "Client",
    "ClusterError",
    "Config",
    "ConfigError",
    "ConsoleProgress",
    "CoordinatorLostError",
    "CycleError",
    "DuplicateStepError",
    "EmptyWorkflowError",
    "Event",
    "Failed",
    "FileProgress",
    "Future",
    "GraphError",
    "Hint",
    "InternalError",
    "ItemNode",
    "LateMapNode",
    "LocalCluster",
    "MapNode",
    "MemoryLimitError",
    "MissingModuleError",
    "Node",
    "OutputNotKeptError",
    "PfwError",
    "ProtocolError",
    "Retry",
    "RetryExhaustedError",
    "Run",
    "RunCancelledError",
    "RunTimeoutError",
    "StalledError",
    "Step",
    "StepContext",
    "StepCrashedError",
    "StepEnd",
    "StepFailedError",
    "StepFunction",
    "StepInterrupt",
    "StepMetrics",
    "StepTimeoutError",
    "Tracker",
    "UnknownDependencyError",
    "UnknownRunError",
    "UnpicklableError",
    "UnschedulableError",
    "VersionMismatchError",
    "WaveMetrics",
    "When",
    "WorkerLostError",
    "Workflow",
    "WorkflowMetrics",
    "__version__",
    "arun",
    "current",
    "run",
    "start",
    "step",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pfw' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
