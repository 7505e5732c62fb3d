"""Whatever comes to a daemon that is none of ours is dropped, counted and logged once; everybody else goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ROOT, steps, wait_until
from helpers.columns import assigned, columns_of, ended
from helpers.daemons import Daemon, Daemons, daemons
from helpers.hostile import PYTHON, FakeCoordinator, Peer, odd_frames, registration
from pfw import Client, ClusterError, ConfigError, VersionMismatchError, Workflow, codec, host, step
from pfw import messages as m
from pfw import outcome as oc
from pfw.connection import find_address
from pfw.graph import Graph, Spec
from pfw.graphs import pack_graph
from pfw.wire import encode

__all__ = ["daemons"]

ODD = odd_frames()
LOG_LINE = "dropped a message"


@pytest.fixture
def client(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A coordinator with a worker; at the end of the test both still work."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT / "tests")]))
    daemons.start_coordinator()
    daemons.start_worker(cpu=2, io=1)
    with Client(daemons.address) as found:
        yield found
        check_it_works(found)
        assert daemons.coordinator.is_alive()
        assert "Traceback" not in daemons.coordinator.tail()


def check_it_works(client: Client) -> None:
    with Workflow() as wf:
        step(steps.total)(step(steps.double).map(range(20)))
    assert client.run(wf).value == 380
    assert client.submit(steps.double, 4).result(20) == 8


def oddities(client: Client) -> int:
    return int(client.status()["oddities"])


def connect(address: str) -> socket.socket:
    name, port = address.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((name, int(port)), 10)


# ---------------------------------------------------------------- bytes at the coordinator

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
RAW = {
    "random": os.urandom(5_000),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100f8010000f40303") + os.urandom(240),
    "half a greeting": GREETING[:20],
    "greeting and noise": GREETING + os.urandom(2_000),
    "greeting and a huge frame": GREETING + b"\x02" + (2**63 - 1).to_bytes(8),
    "greeting and a huge command": GREETING + b"\x06" + (2**40).to_bytes(8) + b"\x05READY",
}


def test_bytes_that_are_no_zeromq_harm_nobody(client: Client) -> None:
    links = []
    for data in RAW.values():
        for _ in range(3):
            link = connect(client.address)
            links.append(link)
            link.sendall(data)
    idle = [connect(client.address) for _ in range(200)]
    check_it_works(client)
    for link in (*links, *idle):
        link.close()
    check_it_works(client)


def test_frames_that_are_no_messages_are_counted_and_logged_once(client: Client, daemons: Daemons) -> None:
    before = oddities(client)
    with Peer(client.address) as peer:
        for _, frame in ODD:
            peer.send_frames(frame)
        many = [b""] * 9, [b"a", b"b"], [b"\x90"] * 9, [b"x" * 1_000] * 300
        for frames in many:
            peer.send_frames(*frames)
        wait_until(lambda: oddities(client) == before + len(ODD) + len(many), what="all are counted",
                   detail=lambda: (oddities(client), before + len(ODD) + len(many)))  # fmt: skip
        peer.hello()  # and it may still become a decent one
    assert daemons.coordinator.log.read_text().count(LOG_LINE) == 1


@pytest.mark.parametrize(("what", "frame"), ODD, ids=[what for what, _ in ODD])
def test_each_odd_frame_counts_as_one(shared: Client, what: str, frame: bytes) -> None:
    before = oddities(shared)
    with Peer(shared.address) as peer:
        peer.send_frames(frame)
        wait_until(lambda: oddities(shared) == before + 1, what=f"{what} is counted")


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Client]:
    """One coordinator for what is only counted."""
    found = subprocess.Popen(
        [sys.executable, "-m", "pfw_coordinator", "--bind", "tcp://127.0.0.1:*"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(request.getfixturevalue("tmp_path_factory").mktemp("run"))},
    )  # fmt: skip
    with found:
        try:
            assert found.stdout is not None
            with Client(found.stdout.readline().split(" listens at ")[1].split()[0]) as client:
                yield client
        finally:
            found.terminate()


# ---------------------------------------------------------------- messages from the wrong one


def graph_of_one(graph: bytes = b"", **changes: object) -> m.Submit:
    one = Graph(["s"], [b"fn"], [Spec(0, 0, 0, 0.1, 2.0, 30.0, 0, 2.0)], [0], [0], [b"call"], [()], [()])
    found = m.Submit(os.urandom(16), "n", "parallel", "stop", 0, (), 0, 0, 0, b"", graph or pack_graph(one))
    return found._replace(**changes)


WORKERS_OWN = [
    m.Heartbeat(5, 5, (1, 2, 3), 1, 1.0, 1.0, 1),
    m.Outcomes(1, columns_of([(1, oc.OK, 1, 1, b"x", 1, 1), (2, 99, 1, 1, b"", 1, 1)])),
    m.Notes(((1, 1), (10**9, 1))), m.CancelsAsked(0), m.Leaving(0), m.Leaving(1),
]  # fmt: skip
CLIENTS_OWN = [
    graph_of_one(), m.Extend(1, 0, b""), m.CancelRun(1, "x"), m.CloseRun(1), m.Attach(1, "x"), m.Cursors(((1, 0, 0),)),
    m.CancelCalls(1, (0, 9)), m.Query(1, "status"), m.ExtendLike(1, 0, 0, (), (b"call",), ((7,),)),
]  # fmt: skip


def test_a_stranger_is_asked_to_introduce_itself(client: Client, tmp_path: Path) -> None:
    held = client.submit(steps.hold, str(tmp_path), "it", "fine")
    wait_until((tmp_path / "it").exists, what="it runs")
    with Peer(client.address) as peer:
        for message in (*WORKERS_OWN, *CLIENTS_OWN):
            peer.send(message)
            assert peer.expect(m.Refused).again == 1
        peer.hello()
        for message in WORKERS_OWN:  # a client says what only a worker may
            peer.send(message)
            assert peer.expect(m.Refused).again == 1
    (tmp_path / "go").touch()
    assert held.result(20) == "fine"


def test_outcomes_of_attempts_that_are_not_held_change_nothing(client: Client, tmp_path: Path) -> None:
    held = client.submit(steps.hold, str(tmp_path), "it", "the real one")
    wait_until((tmp_path / "it").exists, what="it runs")
    with Peer(client.address) as peer:
        peer.register(cpu=0, io=0, permits=0)
        false = codec.dump("a false one")
        rows = tuple((attempt, code, 1, 1, false, 1, 1) for attempt in range(50) for code in (oc.OK, oc.ERROR, 77))
        for number in (1, 1, 2, 10**15, 0):
            peer.send(m.Outcomes(number, columns_of(rows)))
        peer.send(m.Notes(tuple((attempt, 1) for attempt in range(50))))
        peer.send(m.Heartbeat(10**15, 10**15, tuple(range(1, 50)), 0, 0.0, 0.0, 0))
        assert peer.expect(m.Reply, lambda reply: reply.stop).stop == tuple(range(1, 50))
    (tmp_path / "go").touch()
    assert held.result(20) == "the real one"


def test_an_outcome_said_twice_counts_once(daemons: Daemons) -> None:
    daemons.start_coordinator()
    with Client(daemons.address) as client, Peer(client.address) as peer:
        peer.register()
        with Workflow() as wf:
            step(steps.double)(step(steps.give)(1))
        found = client.start(wf, keep="all")
        (row,) = assigned(peer.expect(m.Assign)).rows
        first = m.Outcomes(1, columns_of([(row[0], oc.OK, 1, 1, codec.dump("first"), 1, 1)]))
        second = m.Outcomes(1, columns_of([(row[0], oc.OK, 1, 1, codec.dump("second"), 1, 1)]))
        peer.send(first, second, first)
        peer.send(second)
        (row,) = assigned(peer.expect(m.Assign)).rows
        peer.send(m.Outcomes(2, columns_of([(row[0], oc.OK, 1, 1, codec.dump("last"), 1, 1)])), second)
        assert found.wait(20)
        assert dict(found.outputs) == {"give": "first", "double": "last"}
        assert [event.type for event in found.events()].count("Completed") == 2


def test_graphs_that_are_none_are_rejected_with_a_reason(client: Client) -> None:
    good = Graph(["s"], [b"fn"], [Spec(0, 0, 0, 0.1, 2.0, 30.0, 0, 2.0)], [0], [0], [b"call"], [()], [()])
    spec = tuple(good.specs[0])
    bad = [
        b"", b"\x93\x01\x02", b"\x90", os.urandom(100), *(pack_graph(good._replace(**change)) for change in (
            {"inputs": [(0,)]}, {"after": [(7,)]}, {"inputs": [(-1,)]}, {"function_of": [1]}, {"spec_of": [-1]},
            {"ids": []}, {"ids": [1]}, {"calls": ["text"]}, {"specs": [(1.0, *spec[1:])]}, {"specs": [(9, *spec[1:])]},
            {"specs": [(*spec[:7], 1e18)]}, {"specs": [(*spec[:7], float("nan"))]}, {"specs": [()]},
        )),
        pack_graph(Graph([], [], [], [], [], [], [], [])),
    ]  # fmt: skip
    with Peer(client.address) as peer:
        peer.hello()
        for graph in bad:
            peer.send(graph_of_one()._replace(graph=graph))
            assert peer.expect(m.Rejected).text
        for change in ({"mode": "sequential"}, {"mode": ""}, {"on_failure": "x"}):
            peer.send(graph_of_one(**change))
            assert peer.expect(m.Rejected).text
        key = b"k" * 16
        peer.send(graph_of_one(key=key), graph_of_one(key=key))
        first = peer.expect(m.Accepted)
        peer.send(graph_of_one(key=key))
        assert peer.expect(m.Accepted).run == first.run
        other = pack_graph(good._replace(calls=[b"another call"]))
        peer.send(graph_of_one(key=key, graph=other))
        assert "key" in peer.expect(m.Rejected).text
        for message in CLIENTS_OWN[1:]:
            peer.send(message)
        peer.send(m.CancelRun(first.run, "tidy"), m.Query(99, "secrets"))
        assert peer.expect(m.Rejected, lambda rejected: rejected.request == 99).text == "nothing is known of 'secrets'"


# ---------------------------------------------------------------- who may take part


def test_other_versions_are_refused_and_told_both(client: Client) -> None:
    with Peer(client.address) as peer:
        for message in (
            registration(protocol=99), registration(python="2.7"), m.Hello(99, PYTHON, "9.9", b"s"),
            m.Hello(m.PROTOCOL, "2.7", "9.9", b"s"),
        ):  # fmt: skip
            peer.send(message)
            refused = peer.expect(m.Refused)
            assert refused.again == 0
            assert PYTHON in refused.text
            assert "99" in refused.text or "2.7" in refused.text
    assert client.status()["workers"] == 1


def test_a_client_and_a_worker_that_are_refused_say_why(daemons: Daemons) -> None:
    fake = FakeCoordinator()
    try:
        worker = daemons.spawn("worker", ["-m", "pfw_worker", fake.address, "--cpu", "1"])
        fake.expect(m.Register)
        fake.send(m.Refused(m.REFUSED_PROTOCOL, "yours is 1, mine is 99", 0))
        assert worker.wait() == 3
        assert "yours is 1, mine is 99" in worker.tail()
        errors: list[BaseException] = []

        def connect_client() -> None:
            try:
                Client(fake.address)
            except VersionMismatchError as error:
                errors.append(error)

        thread = threading.Thread(target=connect_client)
        thread.start()
        fake.expect(m.Hello)
        fake.send(m.Refused(m.REFUSED_PROTOCOL, "yours is 1, mine is 99", 0))
        thread.join(20)
        assert "mine is 99" in str(errors[0])
    finally:
        fake.close()


def test_a_registration_with_an_impossible_process_id_harms_nobody(client: Client) -> None:
    here = host.host_identity()
    for pid in (0, 1, 2**22 + 1, 2**31 - 1, 2**31, 2**40, 2**61):
        with Peer(client.address) as peer:
            peer.send(registration(pid=pid, host=here, cpu=0, io=0, permits=0))
            peer.expect(m.Welcome)


def test_no_coordinator_is_an_error_that_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match=address):
            Client(address, timeout=0.2)
    with pytest.raises(ClusterError, match="ipc:///nowhere"):
        Client("ipc:///nowhere/at/all", timeout=0.2)
    for nonsense in ("nonsense", "tcp://", "http://localhost:1"):
        with pytest.raises(ConfigError, match="address"):
            Client(nonsense)


PUBLIC = [
    "tcp://0.0.0.0:*",
    "tcp://*:0",
    "tcp://[::]:*",
    "tcp://192.0.2.1:7700",
    "tcp://example.org:1",
    "udp://127.0.0.1:1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_others_can_reach_is_refused(daemons: Daemons, address: str) -> None:
    daemon = daemons.spawn("coordinator", ["-m", "pfw_coordinator", "--bind", address])
    assert daemon.wait() == 2
    assert "127.0.0.1" in daemon.tail()
    assert "Traceback" not in daemon.tail()


def test_a_connection_file_that_others_can_change_is_refused(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    daemons.start_coordinator()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(daemons.runtime_dir))
    monkeypatch.delenv("PFW_ADDRESS", raising=False)
    assert find_address() == daemons.address
    folder = daemons.runtime_dir / "pfw"
    file = folder / "coordinator.json"
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    for path, loose, private in ((file, 0o644, 0o600), (file, 0o620, 0o600), (folder, 0o755, 0o700)):
        path.chmod(loose)
        with pytest.raises(ConfigError, match="open to other users"):
            Client()
        path.chmod(private)
    with Client() as client:
        assert client.address == daemons.address
    file.write_text("not json")
    with pytest.raises(ConfigError, match="no connection file"):
        Client()


# ---------------------------------------------------------------- messages at the worker


class Duel:
    """A real worker and a coordinator that is none."""

    def __init__(self, daemons: Daemons) -> None:
        self.fake = FakeCoordinator()
        self.worker: Daemon = daemons.spawn(
            "worker", ["-m", "pfw_worker", self.fake.address, "--cpu", "1", "--io", "1"]
        )
        self.fake.expect(m.Register)
        self.fake.send(m.Welcome(1, 1.0, self.fake.pub, 0))
        self.fake.expect(m.Heartbeat)

    def check_it_works(self, number: int) -> None:
        call = codec.dump(("s", (20,), None))
        block = (number, 1, 1, number, 0, 0, 2000, 0, 0, (), (call,), ())
        self.fake.send(m.Assign(number, 0, 0, ((number, codec.dump_function(abs)),), ((1, "run"),), (block,)))
        rows = ended(self.fake.expect(m.Outcomes)).rows
        assert [(row[0], row[1], codec.load(row[4])) for row in rows] == [(number, oc.OK, 20)]
        assert self.worker.is_alive()


@pytest.fixture
def duel(daemons: Daemons) -> Iterator[Duel]:
    found = Duel(daemons)
    yield found
    found.fake.close()
    found.worker.signal(signal.SIGKILL)


def test_a_worker_drops_what_is_no_message(duel: Duel) -> None:
    theirs = ("what only a coordinator says", "work for a worker")
    for what, frame in ODD:
        if what not in theirs:
            duel.fake.send_frames(frame)
            duel.fake.publisher.send(frame)
    for frames in ([b""] * 9, [b"a", b"b"], [b"x"] * 300):
        duel.fake.send_frames(*frames)
        duel.fake.publisher.send_multipart(frames)
    for message in (*WORKERS_OWN, *CLIENTS_OWN):
        duel.fake.send(message)
    duel.check_it_works(1)
    assert duel.worker.log.read_text().count(LOG_LINE) == 1
    assert "Traceback" not in duel.worker.tail()


def test_a_worker_lives_with_messages_that_make_no_sense(duel: Duel) -> None:
    many = tuple(range(1_000))
    for _ in range(2):
        duel.fake.send(
            m.GiveBack(many, 1), m.Reply(10**15, 0, many), m.Forget(many, many), m.Cancels(0, 0, (77,)),
            m.Assign(0, 0, 0, (), (), ((900, 5, 1, 66, 0, 0, 0, 0, 0, (), (b"",), ()),)),
        )  # fmt: skip
    duel.check_it_works(2_001)
    duel.check_it_works(2_002)


def test_a_registered_worker_that_is_forgotten_registers_again(duel: Duel) -> None:
    duel.fake.send(m.Refused(m.REFUSED_VERSION, "not registered here", 1))
    duel.fake.expect(m.Register)
    duel.fake.send(m.Welcome(2, 1.0, duel.fake.pub, 0))
    duel.check_it_works(1)
    duel.fake.send_frames(*encode([m.Welcome(2, 1.0, duel.fake.pub, 0)] * 50))
    duel.check_it_works(2)
