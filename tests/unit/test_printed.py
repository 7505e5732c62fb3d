"""What steps print, bounded."""

from __future__ import annotations

import sys
import threading

import pytest

from pfw import context
from pfw.capture import Buffer, capturing
from pfw.context import Entry
from pfw.echo import WAITING_BYTES, Echo
from pfw.printed import (
    CHATTY_BYTES,
    LOG_BYTES,
    LOG_PIECE_BYTES,
    PIECE_AT_LEAST_EVERY_S,
    PIECE_EVERY_S,
    SHORT_LOG_PIECE_BYTES,
    Log,
    Pace,
    Piece,
    Window,
    abridge,
    whole,
)


def test_the_first_piece_is_told_at_once_and_later_ones_less_often() -> None:
    pace = Pace(100.0)
    assert pace.due == 100.0
    pace.on_told(10, 100.0)
    assert pace.due == 100.0 + PIECE_EVERY_S
    pace.on_told(10, 200.0)
    assert pace.due == 200.0 + 1.0
    pace.on_told(10, 4_000.0)
    assert pace.due == 4_000.0 + PIECE_AT_LEAST_EVERY_S


def test_who_prints_much_is_heard_in_shorter_pieces() -> None:
    pace = Pace(0.0)
    pace.on_told(CHATTY_BYTES - 1, 0.0)
    assert pace.limit == LOG_PIECE_BYTES
    pace.on_told(1, 0.0)
    assert pace.limit == SHORT_LOG_PIECE_BYTES


def test_what_is_left_out_is_counted() -> None:
    assert abridge(b"head", 1_000, b"tail") == b"head\n[... 1000 bytes left out ...]\ntail"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"", b""), (b"abc", b"abc"), ("aé".encode(), "aé".encode()), ("aé".encode()[:-1], b"a"),
        ("a€".encode()[:-1], b"a"), ("a€".encode()[:-2], b"a"), ("a\U0001f600".encode()[:-1], b"a"),
        ("\U0001f600".encode(), "\U0001f600".encode()), (b"\x80\x80\x80\x80\x80", b"\x80\x80\x80\x80\x80"),
        (b"a\xff\xfe", b"a\xff"), (b"\x80", b"\x80"),
    ],
)  # fmt: skip
def test_a_character_is_not_cut_in_two(text: bytes, kept: bytes) -> None:
    assert whole(text) == kept


def test_a_window_drops_the_oldest_first() -> None:
    window: Window[str] = Window(10)
    assert window.add("a", 6) == []
    assert window.add("b", 4) == []
    assert window.add("c", 7) == ["a", "b"]
    assert window.add("too long", 11) == ["c", "too long"]
    assert window.add("d", 10) == []


def test_a_log_tells_each_attempt_and_says_when_something_is_missing() -> None:
    log = Log()
    assert log.text(0) == ""
    log.add(0, Piece(1, b"first \xff"))
    log.add(1, Piece(1, b"other"))
    log.add(0, Piece(2, b"second"))
    assert (log.text(0), log.text(0, 1), log.text(0, 3)) == ("first \ufffdsecond", "first \ufffd", "")
    log.add(1, Piece(1, bytes(LOG_BYTES - 11)))
    assert log.text(0) == "[... what was printed earlier is no longer kept ...]\nsecond"
    assert log.text(0, 2) == "second"


def test_a_character_that_came_in_two_pieces_is_one() -> None:
    log = Log()
    first, second = "é"[:1].encode()[:1], "é".encode()[1:]
    log.add(0, Piece(1, first))
    log.add(0, Piece(1, second))
    assert log.text(0) == "é"


# -- noted in this process ---------------------------------------------------------------------------------------------


def test_a_buffer_keeps_the_beginning_and_the_end() -> None:
    buffer = Buffer()
    for n in range(200_000):
        buffer.add(f"{n:06} lines\n")
    text = buffer.take()
    assert text.startswith(b"000000 lines\n000001")
    assert text.endswith(b"199999 lines\n")
    left_out = 200_000 * 13 - LOG_PIECE_BYTES
    assert b"[... %d bytes left out ...]" % left_out in text
    assert len(text) < LOG_PIECE_BYTES + 100
    assert buffer.take() == b""


def test_a_buffer_gives_everything_that_fits() -> None:
    buffer = Buffer()
    text = "".join(f"{n:05} é\n" for n in range(LOG_PIECE_BYTES // 10))
    for at in range(0, len(text), 1_000):
        buffer.add(text[at : at + 1_000])
    assert buffer.take().decode() == text
    buffer.add("lone \udc80")
    assert buffer.take() == b"lone \\udc80"
    buffer.add("abcdef")
    assert buffer.take(4) == abridge(b"ab", 2, b"ef")


@pytest.fixture
def entry() -> Entry:
    entry = Entry("run", 1)
    entry.step_id = "step"
    entry.printed = Buffer()
    return entry


def noted(entry: Entry) -> bytes:
    assert entry.printed is not None
    return entry.printed.take()


def test_what_a_step_prints_is_noted_and_shown(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stdout
    with capturing():
        print("before")
        previous = context.enter(entry)
        print("out", 1)
        sys.stderr.writelines(["err", "or\n"])
        thread = threading.Thread(target=print, args=("thread",))
        thread.start()
        thread.join()
        context.leave(previous)
        print("after", flush=True)
        assert sys.stdout.encoding == stream.encoding
    assert sys.stdout is stream
    assert noted(entry) == b"out 1\nerror\nthread\n"
    assert capsys.readouterr() == ("before\nout 1\nthread\nafter\n", "error\n")


def test_captures_overlap(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stdout
    first, second = capturing(), capturing()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    previous = context.enter(entry)
    print("still noted")
    context.leave(previous)
    second.__exit__(None, None, None)
    assert noted(entry) == b"still noted\n"
    assert sys.stdout is stream


def test_what_a_step_logs_is_noted_with_its_level_and_id(
    entry: Entry, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with capturing():
        previous = context.enter(entry)
        context.current().logger.info("at work on %s", "it")
        context.current().logger.debug("not told")
        context.leave(previous)
    assert noted(entry) == b"INFO pfw.step.step: at work on it\n"
    assert caplog.messages == ["at work on it"]


# -- shown -------------------------------------------------------------------------------------------------------------


def test_an_echo_shows_everything_in_order_and_survives_a_broken_stream(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        if "bad" in text:
            raise OSError("closed")

    echo = Echo(write)
    echo.flush(0.0)
    for text in (b"bad", b"bad again", b"good \xff"):
        echo.put(text)
        echo.flush(10.0)
    assert shown == ["bad", "bad again", "good \ufffd"]
    assert len(caplog.records) == 1
    assert "OSError('closed')" in caplog.text


def test_a_slow_terminal_delays_nobody() -> None:
    may_go_on, shown = threading.Event(), []

    def write(text: str) -> None:
        may_go_on.wait(30)
        shown.append(text)

    echo = Echo(write)
    for n in range(100_000):
        echo.put(b"%d " % n)
    echo.flush(0.01)
    assert shown == []
    may_go_on.set()
    echo.flush(30.0)
    assert "".join(shown) == "".join(f"{n} " for n in range(100_000))


def test_of_too_much_for_a_slow_terminal_the_oldest_is_not_shown() -> None:
    is_writing, may_go_on, shown = threading.Event(), threading.Event(), []

    def write(text: str) -> None:
        is_writing.set()
        may_go_on.wait(30)
        shown.append(text)

    echo = Echo(write)
    echo.put(b"first")
    is_writing.wait(30)
    echo.put(b"lost")
    echo.put(b"." * WAITING_BYTES)
    may_go_on.set()
    echo.flush(30.0)
    assert shown == ["first", "\n[... 4 bytes left out ...]\n" + "." * WAITING_BYTES]
