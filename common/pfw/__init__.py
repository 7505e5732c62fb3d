"""pfw: a cluster of worker processes for workflows of Python functions.

>>> from pfw import Workflow, run, step
>>> @step
... def double(x):
...     return 2 * x
>>> with Workflow("doubles") as wf:
...     doubled = double.map(range(3))
>>> run(wf, mode="sequential").value
[0, 2, 4]

Importing this package loads nothing else; its parts, and what they rest on, are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pfw.version import __version__

if TYPE_CHECKING:
    from pfw.bar import BarProgress
    from pfw.cancellation import CancellationToken
    from pfw.client import Client
    from pfw.cluster import LocalCluster
    from pfw.config import Config
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
    from pfw.events import Event
    from pfw.futures import Future
    from pfw.hint import Hint
    from pfw.metrics import AttemptMetrics, StepMetrics, WaveMetrics, WorkflowMetrics
    from pfw.node import When
    from pfw.receipt import CancelReceipt, StepEnd
    from pfw.retry import Retry
    from pfw.running import arun, run, start
    from pfw.runs import Run
    from pfw.stepclass import Step
    from pfw.stepfunction import StepFunction, step
    from pfw.tolerance import Failed
    from pfw.trackers import CallbackProgress, ConsoleProgress, FileProgress, Tracker
    from pfw.workflow import BranchNode, ItemNode, LateMapNode, MapNode, Node, Workflow

#: Where each public name is, which is loaded when first used: daemons and slots need few of them, and do not wait.
_LAZY = {
    "AttemptMetrics": "pfw.metrics",
    "BarProgress": "pfw.bar",
    "BranchNode": "pfw.workflow",
    "CallbackProgress": "pfw.trackers",
    "CancelReceipt": "pfw.receipt",
    "CancellationToken": "pfw.cancellation",
    "Client": "pfw.client",
    "ClusterError": "pfw.errors",
    "Config": "pfw.config",
    "ConfigError": "pfw.errors",
    "ConsoleProgress": "pfw.trackers",
    "CoordinatorLostError": "pfw.errors",
    "CycleError": "pfw.errors",
    "DuplicateStepError": "pfw.errors",
    "EmptyWorkflowError": "pfw.errors",
    "Event": "pfw.events",
    "Failed": "pfw.tolerance",
    "FileProgress": "pfw.trackers",
    "Future": "pfw.futures",
    "GraphError": "pfw.errors",
    "Hint": "pfw.hint",
    "InternalError": "pfw.errors",
    "ItemNode": "pfw.workflow",
    "LateMapNode": "pfw.workflow",
    "LocalCluster": "pfw.cluster",
    "MapNode": "pfw.workflow",
    "MemoryLimitError": "pfw.errors",
    "MissingModuleError": "pfw.errors",
    "Node": "pfw.workflow",
    "OutputNotKeptError": "pfw.errors",
    "PfwError": "pfw.errors",
    "ProtocolError": "pfw.errors",
    "Retry": "pfw.retry",
    "RetryExhaustedError": "pfw.errors",
    "Run": "pfw.runs",
    "RunCancelledError": "pfw.errors",
    "RunTimeoutError": "pfw.errors",
    "StalledError": "pfw.errors",
    "Step": "pfw.stepclass",
    "StepContext": "pfw.context",
    "StepCrashedError": "pfw.errors",
    "StepEnd": "pfw.receipt",
    "StepFailedError": "pfw.errors",
    "StepFunction": "pfw.stepfunction",
    "StepInterrupt": "pfw.errors",
    "StepMetrics": "pfw.metrics",
    "StepTimeoutError": "pfw.errors",
    "Tracker": "pfw.trackers",
    "UnknownDependencyError": "pfw.errors",
    "UnknownRunError": "pfw.errors",
    "UnpicklableError": "pfw.errors",
    "UnschedulableError": "pfw.errors",
    "VersionMismatchError": "pfw.errors",
    "WaveMetrics": "pfw.metrics",
    "When": "pfw.node",
    "WorkerLostError": "pfw.errors",
    "Workflow": "pfw.workflow",
    "WorkflowMetrics": "pfw.metrics",
    "arun": "pfw.running",
    "current": "pfw.context",
    "run": "pfw.running",
    "start": "pfw.running",
    "step": "pfw.stepfunction",
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
    if name == "errors":  # `except pfw.errors.ClusterError`: a module that users name
        return import_module("pfw.errors")
    if name not in _LAZY:
        raise AttributeError(f"module 'pfw' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
