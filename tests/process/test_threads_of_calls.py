"""Single calls by several threads of one client, while one of them is in a callback, and by a copy of its process."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers import steps, wait_until
from pfw import Client, ClusterError, LocalCluster, futures

THREADS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2) as found:
        yield found


def test_the_first_calls_of_a_client_may_come_at_once(cluster: LocalCluster) -> None:
    for _ in range(10):
        start = threading.Barrier(THREADS)

        def first_call(client: Client, number: int, start: threading.Barrier = start) -> int:
            start.wait(20)
            value: int = client.submit(steps.add, number, 1).result(20)
            return value

        with Client(cluster.address) as client, ThreadPoolExecutor(THREADS) as threads:
            values = [threads.submit(first_call, client, number) for number in range(THREADS)]
            assert [value.result(30) for value in values] == list(range(1, THREADS + 1))


def test_a_run_of_calls_may_be_renewed_while_others_call(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(futures, "CALLS_PER_RUN", 3)

    def call_on(client: Client, first: int) -> list[int]:
        return [client.submit(steps.add, first, number).result(20) for number in range(60)]

    with Client(cluster.address) as client, ThreadPoolExecutor(THREADS) as threads:
        values = [threads.submit(call_on, client, 100 * number) for number in range(THREADS)]
        for number, value in enumerate(values):
            assert value.result(60) == [100 * number + other for other in range(60)]
        assert len([run for run in client.runs() if run["name"] == "calls"]) > 3, "none was renewed"


def test_results_come_while_a_callback_takes_its_time(cluster: LocalCluster) -> None:
    """The thread that hears is in the callback, so whoever calls has to hear."""
    begun, may_end = threading.Event(), threading.Event()

    def linger(future: object) -> None:
        begun.set()
        may_end.wait(30)

    cluster.submit(steps.add, 1, 1).add_done_callback(linger)
    assert begun.wait(20)
    later = cluster.submit(steps.add, 2, 2)
    try:

        def has_come() -> bool:
            cluster.submit(steps.add, 3, 3)
            return later.done()

        wait_until(has_come, what="the result of a later call")
    finally:
        may_end.set()
    assert later.result(20) == 4


def test_a_forked_process_is_told_that_the_client_is_not_its_own(cluster: LocalCluster) -> None:
    cluster.submit(len, "abc").result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which this is about
        child = os.fork()
    if not child:
        signal.alarm(20)  # what it inherited is held by threads that it has not
        try:
            cluster.submit(len, "abc")
        except ClusterError as error:
            os._exit(7 if "make one of your own after a fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert cluster.submit(len, "abc").result() == 3, "the parent's goes on"
