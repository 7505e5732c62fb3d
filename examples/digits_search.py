"""A search for the best parameters of a classifier of handwritten digits, cross-validated, in parallel.

Run it with `python examples/digits_search.py`. It needs the extra `examples`: data and classifier are scikit-learn's.
Each candidate is judged on each fold in a step of its own. The scores are exactly those of scikit-learn's own search.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from pfw import Run, Workflow, run, step

GRID = {"C": [1.0, 10.0], "gamma": [0.0005, 0.001, 0.002]}
FOLDS = 3


@functools.cache
def digits() -> tuple[Any, Any]:
    """Returns 1,797 images of 8 × 8 pixels and what they show. Read once in each process, so it need not travel."""
    images, labels = load_digits(return_X_y=True)
    return images, labels


def candidates() -> list[dict[str, float]]:
    """Returns all combinations of the grid."""
    return [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]


@step(hint="heavy_cpu")
def evaluate(parameters: dict[str, float], fold: int) -> float:
    """Trains on all folds but one; returns the share of that one which is recognised."""
    images, labels = digits()
    train, test = list(StratifiedKFold(FOLDS).split(images, labels))[fold]
    return float(SVC(**parameters).fit(images[train], labels[train]).score(images[test], labels[test]))


@step
def mean(scores: list[float]) -> float:
    """Returns a candidate's score."""
    return float(np.mean(scores))


@step
def select(scores: list[float], parameters: list[dict[str, float]]) -> tuple[dict[str, float], float]:
    """Returns the best candidate and its score; the first one of equals."""
    best = max(range(len(scores)), key=scores.__getitem__)
    return parameters[best], scores[best]


def main() -> Workflow:
    """Makes the workflow."""
    parameters = candidates()
    with Workflow("digits search") as workflow:
        scores = [mean(evaluate.map([candidate] * FOLDS, range(FOLDS))) for candidate in parameters]
        workflow.returns({"scores": scores, "best": select(scores, parameters)})
    return workflow


def show(found: Run) -> None:
    """Prints every candidate with its score."""
    for candidate, score in zip(candidates(), found.value["scores"], strict=True):
        print("  ".join(f"{name}={value:<7g}" for name, value in candidate.items()), f"{score:.4f}")


if __name__ == "__main__":
    found = run(main())
    show(found)
    best, score = found.value["best"]
    print(f"best: {best} recognises {score:.2%}")
    metrics = found.metrics
    print(
        f"{metrics.total_steps} steps in {metrics.total_duration:.2f} s, "
        f"parallelism factor {metrics.parallelism_factor:.2f}"
    )

    began = time.perf_counter()
    search = GridSearchCV(SVC(), GRID, cv=StratifiedKFold(FOLDS)).fit(*digits())
    print(f"scikit-learn's own search in one process: {time.perf_counter() - began:.2f} s")
    assert found.value["scores"] == search.cv_results_["mean_test_score"].tolist()
    assert best == search.best_params_
    print("same scores, same best")
