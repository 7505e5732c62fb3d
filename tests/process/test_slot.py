"""Real slots, started by a real spawner and driven as a supervisor drives them."""

from __future__ import annotations

import asyncio
import copy
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from helpers import wait_until
from pfw import codec, host, outcome
from pfw.columns import unpack_outcomes
from pfw.context import current
from pfw.failure import FAIL_MODULE, Failure, describe_crash
from pfw_worker.page import STOP_INTERRUPT, STOP_TOKEN, STOP_UNLOAD
from pfw_worker.spawner import SlotHandle, SlotKind, Spawner

TIMEOUT_S = 20.0
RUN = 3


class Driver:
    """One slot, and what a supervisor does with it."""

    def __init__(self, spawner: Spawner, kind: SlotKind) -> None:
        self.spawner = spawner
        self.handle: SlotHandle = spawner.spawn(kind)
        self.sent: dict[int, int] = {}
        self.outcomes: dict[int, tuple[int, int, int, bytes, int, int]] = {}
        assert self.receive() == ()

    def receive(self) -> tuple[Any, ...] | None:
        assert host.wait_readable(self.handle.channel.fileno(), TIMEOUT_S)
        message = self.handle.channel.recv_one()
        return message and (unpack_outcomes(message) or message)

    def assign(self, fn: Callable[..., Any] | bytes, *args: Any, **options: Any) -> None:
        """Send one step under the attempt given, or 1."""
        self.send([step_of(0, *args, **options)], [(0, fn if isinstance(fn, bytes) else codec.dump_function(fn))])

    def send(self, blocks: list[tuple[Any, ...]], functions: list[tuple[int, bytes]] = [], **more: Any) -> None:  # noqa: B006
        self.handle.channel.send((functions, (), blocks, *more.values()))

    def collect(self, count: int) -> dict[int, tuple[int, int, int, bytes, int, int]]:
        """Wait until there are outcomes of so many attempts; return `{attempt: the rest of the row}`."""
        while len(self.outcomes) < count:
            message = self.receive()
            assert message is not None, "the slot has ended"
            self.take(message)
        return self.outcomes

    def take(self, message: tuple[Any, ...]) -> None:
        message = unpack_outcomes(message) or message
        assert len(message) == 7
        self.outcomes.update({attempt: tuple(rest) for attempt, *rest in zip(*message, strict=True)})

    def result(self, attempt: int = 1) -> Any:
        while attempt not in self.outcomes:
            self.collect(len(self.outcomes) + 1)
        code, payload = self.outcomes[attempt][0], self.outcomes[attempt][3]
        assert code == outcome.OK, Failure.unpack(payload)
        return codec.load(payload)

    def wait_executing(self, attempt: int = 1) -> None:
        wait_until(lambda: self.handle.page.executing()[0] == attempt, TIMEOUT_S, what="the step executes")

    def wait_status(self) -> int:
        """Wait until the spawner reports the slot's end, and return its wait status."""
        reaped: dict[int, int] = {}
        while self.handle.pid not in reaped:
            assert host.wait_readable(self.spawner.fileno(), TIMEOUT_S)
            reaped.update({pid: status for pid, status, _ in self.spawner.poll()})
        return reaped[self.handle.pid]


def step_of(fn: int, *args: Any, attempt: int = 1, run: int = RUN, short: int = 0, inputs: Any = ()) -> tuple[Any, ...]:
    """A block of one step."""
    return block_of(fn, [args], [inputs] if inputs else (), attempt, run, short)


def block_of(
    fn: int, calls: list[tuple[Any, ...]], inputs: Any = (), first: int = 1, run: int = RUN, short: int = 1
) -> tuple[Any, ...]:
    """A block with a step for each tuple of arguments."""
    packed = [codec.dump_call(f"step-{first + index}", args or None, None) for index, args in enumerate(calls)]
    return first, run, "run-id", 1, fn, short, packed, inputs


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    started = Spawner.start()
    yield started
    started.close()
    assert not host.is_alive(started.pid)


@pytest.fixture
def start(spawner: Spawner) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start_slot(kind: SlotKind = "sync") -> Driver:
        drivers.append(Driver(spawner, kind))
        return drivers[-1]

    yield start_slot
    for driver in drivers:
        driver.handle.kill()
        driver.handle.close()


@pytest.fixture
def slot(start: Callable[..., Driver]) -> Driver:
    return start()


# ---------------------------------------------------------------- steps


def noop() -> None:
    return None


def pass_on(value: object) -> object:
    return value


def double(data: bytes) -> bytes:
    return data + data


def name_itself() -> tuple[str, str, int]:
    return current().run_id, current().step_id, current().attempt


def touch(path: str) -> None:
    Path(path).touch()


def touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(3600)


def spin() -> None:
    while True:
        pass


def wait_deep(frames: int, there: str, go: str) -> None:
    """Waits for the file `go` where only so many frames are left, without a call of Python code."""
    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1  # type: ignore[assignment]
    access = os.access
    os.close(os.open(there, os.O_CREAT | os.O_WRONLY))

    def down(left: int) -> None:
        if left:
            down(left - 1)
        while not left and not access(go, os.F_OK):
            pass

    down(sys.getrecursionlimit() - used - frames)


def wait_for_token() -> str:
    while not current().token.cancelled:
        os.sched_yield()
    return "stopped itself"


def swallow_once() -> None:
    try:
        time.sleep(3600)
    except BaseException:
        time.sleep(3600)


def segfault() -> None:
    ctypes.string_at(0)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child() -> int:
    child = subprocess.Popen(["sleep", "3600"])
    Path("/proc/self/comm").read_text()
    return child.pid


class KillsWhileUnpickling:
    def __reduce__(self) -> Any:
        return os._exit, (5,)


def make_a_mess(path: str) -> None:
    os.chdir(path)
    os.umask(0)
    os.environ["PFW_TEST_MESS"] = "1"
    del os.environ["PATH"]


def look_around() -> tuple[str, int, bool, bool]:
    mask = os.umask(0)
    os.umask(mask)
    return os.getcwd(), mask, "PFW_TEST_MESS" in os.environ, "PATH" in os.environ


async def meet(path: str, other: str) -> bool:
    """End only if the other one runs at the same time."""
    Path(path).touch()
    while not Path(other).exists():
        await asyncio.sleep(0.001)
    return True


async def sleep_long() -> None:
    await asyncio.sleep(3600)


async def exit_process() -> None:
    os._exit(7)


# ---------------------------------------------------------------- what a slot does with steps


def test_a_batch_of_short_steps_comes_back_as_one_message(slot: Driver) -> None:
    slot.send([block_of(0, [()] * 60), block_of(0, [()] * 4, first=61)], [(0, codec.dump_function(noop))])
    message = slot.receive()
    assert message is not None
    attempts, codes, starts_us, _, payloads, _, _ = message
    assert attempts == list(range(1, 65))
    assert (set(codes), set(payloads)) == ({outcome.OK}, {codec.dump(None)})
    assert starts_us == sorted(starts_us)
    wait_until(lambda: slot.handle.page.executing()[0] == 0, what="the slot idles")


def test_outcomes_are_sent_before_a_step_that_may_take_long(slot: Driver) -> None:
    functions = [(0, codec.dump_function(noop)), (1, codec.dump_function(time.sleep))]
    slot.send([step_of(0, attempt=1, short=1), step_of(1, 3600, attempt=2)], functions)
    assert slot.result(1) is None
    slot.wait_executing(2)


def test_a_step_knows_who_it_is(slot: Driver) -> None:
    slot.assign(name_itself)
    assert slot.result() == ("run-id", "step-1", 1)


def test_inputs_are_given_to_the_function(slot: Driver) -> None:
    slot.assign(max, inputs=(codec.dump(3), codec.dump(4)))
    assert slot.result() == 4


def test_each_step_of_a_chain_gets_the_output_before_it_until_one_fails(slot: Driver) -> None:
    functions = [(0, codec.dump_function(double)), (1, codec.dump_function(int)), (2, codec.dump_function(divmod))]
    steps = [
        step_of(0, "ab", attempt=1, short=1),
        step_of(0, attempt=2, short=1, inputs=(None,)),
        step_of(1, attempt=3, short=1, inputs=(None,)),
        step_of(0, attempt=4, short=1, inputs=(None,)),
        step_of(0, attempt=5, short=1, inputs=(None,)),
        step_of(2, attempt=6, short=1, inputs=(codec.dump(7), codec.dump(2))),
        step_of(0, attempt=7, short=1, inputs=(None,)),
    ]
    slot.send(steps, functions)
    assert slot.result(2) == "abababab"
    slot.collect(7)
    assert [slot.outcomes[attempt][0] for attempt in (3, 4, 5)] == [outcome.RETRYABLE, *[outcome.NOT_STARTED] * 2]
    assert slot.result(7) == (3, 1) * 2


@pytest.mark.parametrize("value", [0, False, 0.0, -1, None])
def test_a_chain_goes_on_after_any_small_output(slot: Driver, value: object) -> None:
    functions = [(0, codec.dump_function(pass_on))]
    steps = [step_of(0, value, attempt=1, short=1), step_of(0, attempt=2, short=1, inputs=(None,))]
    slot.send(steps, functions)
    assert [repr(slot.result(attempt)) for attempt in (2, 1)] == [repr(value)] * 2


def test_a_chain_goes_on_through_a_block_and_from_one_to_the_next(slot: Driver) -> None:
    functions = [(0, codec.dump_function(double)), (1, codec.dump_function(divmod))]
    inputs = [(codec.dump("a"),), (None,), (None,)]
    blocks = [block_of(0, [()] * 3, inputs), block_of(0, [()], [(None,)], first=11)]
    other = block_of(1, [()] * 2, [(codec.dump(7), codec.dump(2)), (codec.dump(9), codec.dump(3))], first=21)
    slot.send([*blocks, other], functions)
    slot.collect(6)
    assert [slot.result(attempt) for attempt in (1, 2, 3)] == ["a" * 2, "a" * 4, "a" * 8]
    assert [slot.result(attempt) for attempt in (11, 21, 22)] == ["a" * 16, (3, 1), (3, 0)]


def test_five_megabytes_go_in_and_ten_come_out(slot: Driver) -> None:
    slot.assign(double, b"x" * 5_000_000)
    assert slot.result() == b"x" * 10_000_000


def test_a_function_is_sent_once_and_can_be_forgotten(slot: Driver) -> None:
    slot.send([step_of(4, attempt=1)], [(4, codec.dump_function(noop))])
    slot.send([step_of(4, attempt=2)])
    assert slot.result(2) is None
    slot.handle.channel.send(([(4, codec.dump_function(name_itself))], [4], [step_of(4, attempt=3)]))
    assert slot.result(3)[1] == "step-3"


@pytest.mark.parametrize(
    "odd", [b"", b"no call", b"[\xff\xff\xff\x00", b"i\x01\x00\x00\x00", b"\x80", b"\x80\x05K\x01."]
)
def test_a_call_that_is_none_fails_its_step_alone(slot: Driver, odd: bytes) -> None:
    good, pickled = codec.dump_call("good", (1,), None), codec.dump_call("pickled", (Fraction(1),), None)
    block = (*block_of(0, [])[:6], [good, odd, pickled], ())
    slot.send([block], [(0, codec.dump_function(float))])
    codes = {attempt: found[0] for attempt, found in slot.collect(3).items()}
    assert codes == {1: outcome.OK, 2: outcome.RETRYABLE, 3: outcome.OK}
    assert (slot.result(1), slot.result(3)) == (1.0, 1.0)


def test_a_function_that_does_not_load_fails_its_step_and_not_the_slot(slot: Driver) -> None:
    slot.assign(b"cno_such_module\nf\n.")
    code, payload = slot.collect(1)[1][0], slot.collect(1)[1][3]
    assert (code, Failure.unpack(payload).code) == (outcome.ERROR, FAIL_MODULE)
    slot.assign(noop, attempt=2)
    assert slot.result(2) is None


def test_an_exit_is_a_failure_of_the_step_and_the_slot_lives(slot: Driver) -> None:
    slot.assign(sys.exit, 3)
    assert slot.collect(1)[1][0] == outcome.ERROR
    slot.assign(noop, attempt=2)
    assert slot.result(2) is None


def test_the_next_step_finds_its_surroundings_as_before(slot: Driver, tmp_path: Path) -> None:
    functions = [(0, codec.dump_function(look_around)), (1, codec.dump_function(make_a_mess))]
    messy = step_of(1, str(tmp_path), attempt=2, short=1)
    slot.send([step_of(0, attempt=1, short=1), messy, step_of(0, attempt=3, short=1)], functions)
    slot.collect(3)
    assert slot.result(2) is None
    assert slot.result(1) == slot.result(3)
    assert slot.result(3)[2:] == (False, True)


def make_a_mess_in_c(path: str) -> None:
    libc = ctypes.CDLL(None)
    libc.chdir(os.fsencode(path))
    libc.umask(0)


def test_the_next_message_finds_the_surroundings_as_before_whatever_has_changed_them(
    slot: Driver, tmp_path: Path
) -> None:
    for attempt, function in enumerate((look_around, make_a_mess_in_c, look_around), 1):
        slot.assign(function, *[str(tmp_path)] * (function is make_a_mess_in_c), attempt=attempt)
        slot.collect(attempt)
    assert slot.result(1) == slot.result(3)


@pytest.mark.parametrize("name", ["chdir", "umask"])
def test_the_next_step_finds_its_surroundings_as_before_however_the_function_was_named(
    slot: Driver, tmp_path: Path, name: str
) -> None:
    """A function that goes by value brings `from os import chdir` along by the name that the function has itself."""
    functions = [(0, codec.dump_function(look_around)), (1, codec.dump_function(getattr(os, name)))]
    messy = step_of(1, str(tmp_path) if name == "chdir" else 0, attempt=2, short=1)
    slot.send([step_of(0, attempt=1, short=1), messy, step_of(0, attempt=3, short=1)], functions)
    slot.collect(3)
    slot.result(2)
    assert slot.result(1) == slot.result(3)


def test_a_change_of_directory_that_is_under_way_when_its_step_ends_is_noticed(slot: Driver, tmp_path: Path) -> None:
    functions = [(n, codec.dump_function(fn)) for n, fn in enumerate((look_around, begin_to_move, end_the_move))]
    steps = (0,), (1, str(tmp_path)), (2,), (0,)
    slot.send([step_of(*step, attempt=n, short=1) for n, step in enumerate(steps, 1)], functions)
    slot.collect(4)
    assert slot.result(3)
    assert slot.result(1) == slot.result(4)


def test_what_a_thread_changes_between_messages_is_put_back(slot: Driver, tmp_path: Path) -> None:
    slot.assign(look_around)
    slot.assign(make_a_mess_later, str(tmp_path), attempt=2)
    assert slot.result(2) is None
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists, TIMEOUT_S, what="the thread has made a mess")
    slot.assign(look_around, attempt=3)
    assert slot.result(1) == slot.result(3)


def make_a_mess_later(path: str) -> None:
    """Leave a thread that does so once the file `go` is there."""

    def wait() -> None:
        while not os.path.exists(f"{path}/go"):
            time.sleep(0.001)
        make_a_mess(path)
        Path(f"{path}/done").touch()

    threading.Thread(target=wait, daemon=True).start()


def begin_to_move(path: str) -> None:
    """Leave a thread that is about to change the directory."""
    began, go_on = threading.Event(), threading.Event()

    class Slow:
        def __fspath__(self) -> str:
            began.set()
            go_on.wait(TIMEOUT_S)
            return path

    thread = threading.Thread(target=os.chdir, args=(Slow(),))
    thread.start()
    began.wait(TIMEOUT_S)
    sys.pfw_test_move = (thread, go_on)  # type: ignore[attr-defined]


def end_the_move() -> bool:
    """Let it do so."""
    thread, go_on = sys.pfw_test_move  # type: ignore[attr-defined]
    go_on.set()
    thread.join(TIMEOUT_S)
    return not thread.is_alive()


def test_functions_that_are_watched_can_be_returned(slot: Driver) -> None:
    slot.assign(give_functions)
    assert slot.result() == [os.chdir, os.fchdir, os.umask]


def give_functions() -> list[Callable[..., object]]:
    return [os.chdir, os.fchdir, os.umask]


CHANGES: dict[str, Callable[[], object]] = {
    "set": lambda: os.environ.__setitem__("PFW_TEST_MESS", "1"),
    "delete": lambda: os.environ.__delitem__("PATH"),
    "bytes": lambda: os.environb.__setitem__(b"PFW_TEST_MESS", b"1"),
    "update": lambda: os.environ.update(PFW_TEST_MESS="1"),
    "or": lambda: os.environ.__ior__({"PFW_TEST_MESS": "1"}),
    "default": lambda: os.environ.setdefault("PFW_TEST_MESS", "1"),
    "pop": lambda: os.environ.pop("PATH"),
    "clear": lambda: os.environ.clear(),
    "other": lambda: setattr(os, "environ", {}),
    "inside": lambda: vars(os.environ)["_data"].update({b"PFW_TEST_MESS": b"1"}),
}


def change_environ(how: str) -> None:
    CHANGES[how]()


def copy_environ() -> bool:
    copied = copy.deepcopy(vars(os.environ)["_data"])
    return type(copied) is dict and copied == {os.fsencode(key): os.fsencode(os.environ[key]) for key in os.environ}


def test_whatever_changes_the_environ_is_noticed(slot: Driver) -> None:
    functions = [(n, codec.dump_function(fn)) for n, fn in enumerate((look_around, change_environ, copy_environ))]
    blocks = []
    for n, how in enumerate(CHANGES):
        blocks += [step_of(1, how, attempt=3 * n + 1, short=1), step_of(0, attempt=3 * n + 2, short=1)]
        blocks.append(step_of(2, attempt=3 * n + 3, short=1))
    slot.send(blocks, functions)
    slot.collect(len(blocks))
    for n, how in enumerate(CHANGES):
        assert slot.outcomes[3 * n + 1][0] == outcome.OK, how
        assert slot.result(3 * n + 2)[2:] == (False, True), how
        assert slot.result(3 * n + 3), how


def put_in_place(fd: int, path: str) -> None:
    """Put another file in the place of the output, or nothing."""
    if path:
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), fd)
    else:
        os.close(fd)


def are_outputs_whole() -> bool:
    return os.path.sameopenfile(1, 2) and os.readlink("/proc/self/fd/1").startswith("/memfd:pfw-output")


@pytest.mark.parametrize("fd", [1, 2])
@pytest.mark.parametrize("name", ["other", ""])
def test_the_next_message_finds_the_output_as_before(slot: Driver, tmp_path: Path, fd: int, name: str) -> None:
    slot.assign(put_in_place, fd, str(tmp_path / name) if name else "")
    assert slot.result() is None
    slot.assign(are_outputs_whole, attempt=2)
    assert slot.result(2)


def fork_and_come_back() -> int:
    return os.fork()


def fork_in_c() -> int:
    return int(ctypes.CDLL(None).fork())


@pytest.mark.parametrize("fork", [fork_and_come_back, fork_in_c])
def test_a_step_that_forks_and_comes_back_in_both_goes_on_once(slot: Driver, fork: Callable[[], int]) -> None:
    functions = [(0, codec.dump_function(fork)), (1, codec.dump_function(noop))]
    slot.send([block_of(0, [()]), block_of(1, [()] * 3, first=2)], functions)
    message = slot.receive()
    assert message is not None
    assert message[0] == [1, 2, 3, 4]
    child = codec.load(message[4][0])
    assert child
    wait_until(lambda: not host.is_alive(child), TIMEOUT_S, what="the copy has ended")
    assert slot.handle.channel.recv() == []


def test_a_slot_holds_no_descriptors_of_its_parents(slot: Driver) -> None:
    slot.assign(os.listdir, "/proc/self/fd")
    # The standard three, the socket, the output once more, and the listing itself.
    assert len(slot.result()) == 6


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    ("fn", "args", "ending"),
    [
        (os._exit, (3,), ("exit", 3)),
        (os._exit, (0,), ("exit", 0)),
        (segfault, (), ("signal", signal.SIGSEGV)),
        (kill_itself, (), ("signal", signal.SIGKILL)),
    ],
)
def test_a_crash_is_reported_and_its_step_is_known(
    slot: Driver, fn: Callable[..., Any], args: tuple[Any, ...], ending: tuple[str, int]
) -> None:
    slot.assign(fn, *args, attempt=9)
    found = describe_crash(slot.wait_status())
    assert (("signal", found.signal) if found.signal else ("exit", found.exit_code)) == ending
    assert slot.handle.channel.recv() == []
    assert slot.handle.page.executing()[0] == 9


def test_a_payload_that_kills_while_unpickling_is_blamed(slot: Driver) -> None:
    slot.send([step_of(0, KillsWhileUnpickling(), attempt=6)], [(0, codec.dump_function(id))])
    assert describe_crash(slot.wait_status()).exit_code == 5
    assert slot.handle.page.executing()[0] == 6


def test_a_killed_slot_leaves_nothing_in_its_process_group(slot: Driver) -> None:
    slot.assign(leave_a_child)
    child = slot.result()
    slot.handle.kill()
    assert describe_crash(slot.wait_status()).signal == signal.SIGKILL
    wait_until(lambda: not host.is_alive(child), TIMEOUT_S, what="the step's child is gone")


def test_neighbours_of_a_crash_notice_nothing(start: Callable[..., Driver]) -> None:
    first, second = start(), start()
    first.assign(os._exit, 1)
    first.wait_status()
    second.assign(noop)
    assert second.result() is None


def test_a_slot_ends_when_its_channel_is_closed(slot: Driver) -> None:
    pid = slot.handle.pid
    slot.handle.channel.close()
    assert slot.wait_status() == 0
    assert not host.is_alive(pid)


# ---------------------------------------------------------------- stops


def repeat_stop(slot: Driver, attempt: int, level: int) -> dict[int, Any]:
    """Stop as a supervisor does: again and again until the outcome is there."""

    def is_stopped() -> bool:
        slot.handle.stop(attempt, level)
        for message in slot.handle.channel.recv():
            slot.take(message)
        return attempt in slot.outcomes

    wait_until(is_stopped, TIMEOUT_S, what="the step has stopped")
    return slot.outcomes


def test_a_step_that_lasts_keeps_nothing_from_others(slot: Driver) -> None:
    """Outcomes that waited for it are told, what waits behind it is given back, and it goes on."""
    functions = [(0, codec.dump_function(noop)), (1, codec.dump_function(wait_for_token))]
    blocks = [step_of(0, attempt=1, short=1), block_of(1, [()] * 3, first=2)]
    slot.send([*blocks, block_of(0, [()] * 2, [(None,), (None,)], first=11)], functions)
    slot.wait_executing(2)
    while not slot.outcomes:
        slot.handle.stop(2, STOP_UNLOAD)
        if host.wait_readable(slot.handle.channel.fileno(), 0.1):
            slot.collect(5)
    assert slot.outcomes.pop(1)[0] == outcome.OK
    assert slot.outcomes == dict.fromkeys((3, 4, 11, 12), (outcome.NOT_STARTED, 0, 0, b"", 0, 0))
    assert slot.handle.page.executing()[0] == 2
    slot.handle.stop(2, STOP_TOKEN)
    assert slot.result(2) == "stopped itself"


@pytest.mark.parametrize("frames", [4, 5, 6, 7, 9, 12, 20])
def test_a_slot_keeps_its_word_where_the_stack_is_used_up(slot: Driver, tmp_path: Path, frames: int) -> None:
    """The request comes while its step has so many frames left: every attempt is heard of all the same."""
    functions = [(0, codec.dump_function(noop)), (1, codec.dump_function(wait_deep))]
    go = tmp_path / "go"
    deep = step_of(1, frames, str(tmp_path / "there"), str(go), attempt=2, short=1)
    slot.send([step_of(0, attempt=1, short=1), deep, block_of(0, [()] * 2, first=3)], functions)
    wait_until((tmp_path / "there").exists, TIMEOUT_S, what="the step is there")
    slot.handle.stop(2, STOP_UNLOAD)
    go.touch()
    codes = {attempt: code for attempt, (code, *_) in slot.collect(4).items()}
    assert codes[1] == outcome.OK
    assert {codes[3], codes[4]} in ({outcome.OK}, {outcome.NOT_STARTED})


def test_the_token_lets_a_step_stop_itself(slot: Driver) -> None:
    slot.assign(wait_for_token)
    slot.wait_executing()
    repeat_stop(slot, 1, STOP_TOKEN)
    assert slot.result() == "stopped itself"


@pytest.mark.parametrize(("fn", "args"), [(time.sleep, (3600,)), (spin, ()), (swallow_once, ())])
def test_an_interrupt_stops_what_python_can_stop(slot: Driver, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    slot.assign(fn, *args)
    slot.wait_executing()
    assert repeat_stop(slot, 1, STOP_INTERRUPT)[1][0] == outcome.STOPPED
    slot.assign(noop, attempt=2)
    assert slot.result(2) is None


def test_a_stop_of_another_attempt_changes_nothing(slot: Driver, tmp_path: Path) -> None:
    started = tmp_path / "started"
    slot.assign(touch_and_sleep, str(started))
    wait_until(started.exists, TIMEOUT_S)
    slot.handle.stop(8, STOP_INTERRUPT)
    slot.handle.stop(9, STOP_INTERRUPT)
    assert slot.handle.page.executing()[0] == 1
    assert repeat_stop(slot, 1, STOP_INTERRUPT)[1][0] == outcome.STOPPED


def test_a_stop_of_an_idle_slot_changes_nothing(slot: Driver) -> None:
    slot.handle.stop(1, STOP_INTERRUPT)
    slot.assign(noop, attempt=2)
    assert slot.result(2) is None


def test_steps_of_a_cancelled_run_are_not_started(slot: Driver, tmp_path: Path) -> None:
    functions = [(0, codec.dump_function(time.sleep)), (1, codec.dump_function(touch))]
    cancelled, other = tmp_path / "cancelled", tmp_path / "other"
    slot.send(
        [
            step_of(0, 3600, attempt=1),
            step_of(1, str(cancelled), attempt=2),
            step_of(1, str(other), attempt=3, run=RUN + 1),
        ],
        functions,
    )
    slot.wait_executing()
    slot.handle.page.cancel_run(RUN)
    repeat_stop(slot, 1, STOP_INTERRUPT)
    outcomes = slot.collect(3)
    # The one of another run is given back with it: a step that is told to stop may take its time.
    assert [outcomes[attempt][0] for attempt in (1, 2, 3)] == [outcome.STOPPED, *[outcome.NOT_STARTED] * 2]
    slot.send([step_of(1, str(cancelled), attempt=4), step_of(1, str(other), attempt=5, run=RUN + 1)])
    slot.collect(5)
    assert [outcomes[attempt][0] for attempt in (4, 5)] == [outcome.NOT_STARTED, outcome.OK]
    assert not cancelled.exists()
    assert other.exists()


# ---------------------------------------------------------------- the async process


def test_async_steps_run_at_the_same_time(start: Callable[..., Driver], tmp_path: Path) -> None:
    slot = start("async")
    paths = [str(tmp_path / name) for name in "ab"]
    inputs = [[codec.dump(path) for path in order] for order in (paths, paths[::-1])]
    slot.send([block_of(0, [()] * 2, inputs)], [(0, codec.dump_function(meet))])
    assert slot.result(1)
    assert slot.result(2)
    wait_until(lambda: slot.handle.page.executing()[0] == 0, what="the slot idles")


def test_an_async_step_is_stopped_alone(start: Callable[..., Driver], tmp_path: Path) -> None:
    slot = start("async")
    paths = [str(tmp_path / name) for name in "ab"]
    slot.send(
        [step_of(0, attempt=1), step_of(1, *paths, attempt=2)],
        [(0, codec.dump_function(sleep_long)), (1, codec.dump_function(meet))],
    )
    wait_until(Path(paths[0]).exists, TIMEOUT_S)
    slot.send([], stop=[1, 77])
    assert slot.collect(1)[1][0] == outcome.STOPPED
    Path(paths[1]).touch()
    assert slot.result(2)


def test_an_async_step_that_has_not_begun_is_not_started(start: Callable[..., Driver]) -> None:
    slot = start("async")
    slot.send([step_of(0)], [(0, codec.dump_function(sleep_long))], stop=[1])
    assert slot.collect(1)[1][0] == outcome.NOT_STARTED
    slot.handle.page.cancel_run(RUN)
    slot.send([block_of(0, [()] * 2, first=2)])
    assert [slot.collect(3)[attempt][0] for attempt in (2, 3)] == [outcome.NOT_STARTED] * 2


def test_a_lone_async_step_is_blamed_for_a_crash(start: Callable[..., Driver]) -> None:
    slot = start("async")
    slot.assign(exit_process, attempt=4)
    assert describe_crash(slot.wait_status()).exit_code == 7
    assert slot.handle.page.executing()[0] == 4


def test_the_async_process_passes_large_outputs_on(start: Callable[..., Driver]) -> None:
    slot = start("async")
    slot.assign(double_later, b"x" * 5_000_000)
    assert slot.result() == b"x" * 10_000_000


async def double_later(data: bytes) -> bytes:
    await asyncio.sleep(0)
    return data + data


def test_the_async_process_ends_when_its_channel_is_closed(start: Callable[..., Driver]) -> None:
    slot = start("async")
    slot.assign(sleep_long)
    slot.wait_executing()
    slot.handle.channel.close()
    assert slot.wait_status() == 0


# ---------------------------------------------------------------- the spawner

SUPERVISOR = """
import sys, time
from pfw import codec
from pfw_worker.spawner import Spawner

spawner = Spawner.start()
slots = [spawner.spawn("sync"), spawner.spawn("sync"), spawner.spawn("async")]
for slot in slots:
    assert slot.channel.recv_one() == ()
call = codec.dump(("s", (3600,), None))
slots[0].channel.send(([(0, codec.dump_function(time.sleep))], (), [(1, 1, "r", 1, 0, 0, [call], ())]))
print(spawner.pid, *(slot.pid for slot in slots), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def supervisor() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield process, [int(word) for word in process.stdout.readline().split()]
        process.kill()


def test_nothing_is_left_when_the_supervisor_is_killed(supervisor: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, pids = supervisor
    assert len(pids) == 4
    process.kill()
    wait_until(lambda: not any(map(host.is_alive, pids)), TIMEOUT_S, what="spawner and slots are gone")


def test_nothing_is_left_when_the_spawner_is_killed(supervisor: tuple[subprocess.Popen[str], list[int]]) -> None:
    _, (spawner_pid, *slots) = supervisor
    os.kill(spawner_pid, signal.SIGKILL)
    wait_until(lambda: not any(map(host.is_alive, slots)), TIMEOUT_S, what="the slots are gone")


def test_a_spawner_that_is_gone_is_noticed() -> None:
    spawner = Spawner.start()
    os.kill(spawner.pid, signal.SIGKILL)
    assert host.wait_readable(spawner.fileno(), TIMEOUT_S)
    assert spawner.poll() == []
    assert spawner.at_end
    with pytest.raises(Exception, match="the process that starts slots has ended"):
        spawner.spawn("sync")
    spawner.close()


def test_a_slot_that_ends_while_another_is_started_is_told_of() -> None:
    spawner = Spawner.start()
    first = spawner.spawn("sync")
    first.kill()
    assert host.wait_readable(spawner.fileno(), TIMEOUT_S)
    second = spawner.spawn("sync")
    assert not host.wait_readable(spawner.fileno(), 0.0)
    assert spawner.has_ended_slots
    assert [ended.pid for ended in spawner.poll()] == [first.pid]
    assert not spawner.has_ended_slots
    for handle in (first, second):
        handle.close()
    spawner.close()


def test_the_path_of_an_embedded_client_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFW_SYS_PATH", '["/somewhere/else"]')
    spawner = Spawner.start()
    driver = Driver(spawner, "sync")
    driver.assign(read_path)
    assert driver.result() == ("/somewhere/else", False)
    driver.handle.close()
    spawner.close()


def read_path() -> tuple[str, bool]:
    return sys.path[0], "PFW_SYS_PATH" in os.environ
