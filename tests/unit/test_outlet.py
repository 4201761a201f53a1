"""No write to a shared descriptor waits for its reader, of whatever kind it is and whoever owns it."""

from __future__ import annotations

import fcntl
import gc
import os
import pty
import socket
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framework.process.outlet import Outlet
from framework.telemetry.logs.writer import LineWriter

LINE = b"x" * 199 + b"\n"
Held = tuple[
    int, int, Callable[[], object], bool
]  # what reads, what is written to, lets the reader go on, echoes CR LF


@contextmanager
def a_pipe() -> Iterator[Held]:
    reader, writer = os.pipe()
    yield reader, writer, lambda: None, False
    os.close(reader)
    os.close(writer)


@contextmanager
def a_socket() -> Iterator[Held]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours.fileno(), theirs.fileno(), lambda: None, False


@contextmanager
def a_held_terminal() -> Iterator[Held]:
    """As after Ctrl-S."""
    main, other = pty.openpty()
    termios.tcflow(other, termios.TCOOFF)
    yield main, other, lambda: termios.tcflow(other, termios.TCOON), True
    os.close(main)
    os.close(other)


@contextmanager
def a_terminal_without_reader() -> Iterator[Held]:
    main, other = pty.openpty()
    yield main, other, lambda: None, True
    os.close(main)
    os.close(other)


pytestmark = pytest.mark.timeout(30)
KINDS = [a_pipe, a_socket, a_held_terminal, a_terminal_without_reader]


def fill(outlet: Outlet, most: int = 5000) -> int:
    for count in range(most):
        if not outlet.write(LINE):
            assert outlet.full
            while outlet.write(b"\n"):  # a pipe may have room for less
                pass
            return count
    raise AssertionError("it never fills")


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    except BlockingIOError:
        return data
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_what_finds_no_room_is_refused_whole_and_goes_on_when_there_is_some(
    kind: Callable[..., Iterator[Held]],
) -> None:
    with kind() as (reader, writer, release, _):
        outlet = Outlet(writer)
        count = fill(outlet)
        release()
        found = read_all(reader)
        while not outlet.write(b"after\n"):  # and what was left of the last line
            found += read_all(reader)
        found += read_all(reader)
        lines = found.replace(b"\r\n", b"\n").split(b"\n")
        assert [line for line in lines if line] == [LINE[:-1]] * count + [b"after"]
        assert fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK == 0  # it is not ours to set


@pytest.mark.root
@pytest.mark.parametrize("controlling", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_another_users_output_cannot_be_opened_anew_and_still_does_not_block(
    kind: Callable[..., Iterator[Held]], controlling: bool
) -> None:
    """As after `sudo -u`, or in a container that runs as another user than its log's."""
    with kind() as (_, writer, _, is_terminal):
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                if is_terminal and controlling:
                    fcntl.ioctl(writer, termios.TIOCSCTTY, 0)
                os.setgroups([])
                os.setuid(65534)
                fill(Outlet(writer))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0


def test_nothing_raises_where_nothing_can_be_written(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    fds = [
        writer,
        os.open("/dev/full", os.O_WRONLY),
        os.open(os.devnull, os.O_RDONLY),
        os.open(tmp_path, os.O_RDONLY),
        -1,
    ]
    for fd in fds:
        outlet = Outlet(fd)
        assert (outlet.write(LINE), outlet.full) == (False, False)
    for fd in fds[:-1]:
        os.close(fd)


def test_a_file_that_takes_the_number_of_a_closed_output_gets_nothing(tmp_path: Path) -> None:
    """Verified: code that closes the standard descriptors made log lines land in the next file that was opened."""
    log, other = tmp_path / "log", tmp_path / "other"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT)
    outlet = Outlet(fd)
    own = outlet._own
    for number in (fd, own):
        os.close(number)
    taken = [os.open(other, os.O_WRONLY | os.O_CREAT) for _ in range(2)]
    assert sorted(taken) == sorted((fd, own))
    assert not outlet.write(LINE)
    os.close(own)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), fd)  # back again: it is found by what it is
    assert outlet.write(LINE)
    assert (other.read_bytes(), log.read_bytes()) == (b"", LINE)


def test_an_output_that_is_replaced_meanwhile_keeps_the_lines(tmp_path: Path) -> None:
    """A handler captures what a library prints: the lines of the log are not part of it."""
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    outlet = Outlet(fd)
    os.dup2(os.open(tmp_path / "captured", os.O_WRONLY | os.O_CREAT), fd)
    assert outlet.write(LINE)
    assert (tmp_path / "log").read_bytes() == LINE


def test_the_first_line_that_finds_room_says_how_many_found_none() -> None:
    with a_pipe() as (reader, writer, _, _):
        outlet = Outlet(writer)
        dropped: list[int] = []
        lines = LineWriter(writer, dropped=lambda: dropped.append(1), patience=0.001)
        lines.notice = lambda count: b"%d lost\n" % count
        fill(outlet)
        for _ in range(3):
            lines.write(LINE)
        lines.say_lost()
        assert (lines.lost, len(dropped)) == (3, 3)
        read_all(reader)
        lines.write(b"next\n")
        assert read_all(reader) == b"3 lost\nnext\n"
        assert lines.lost == 0
        fill(outlet)
        lines.write(LINE)
        read_all(reader)
        lines.say_lost()  # without a line, as the supervisor does at every turn
        assert read_all(reader) == b"1 lost\n"


def test_a_number_that_is_another_files_by_now_is_let_be(tmp_path: Path) -> None:
    """Regression: standard output was a socket (systemd's journal), a handler had closed all descriptors and opened a
    file under the number of ours: the next line closed that file."""
    with a_socket() as (reader, writer, _, _):
        outlet = Outlet(writer)
        assert outlet.write(b"one\n")
        number = outlet._own
        os.close(number)
        file = os.open(tmp_path / "theirs", os.O_WRONLY | os.O_CREAT)
        if file != number:
            os.dup2(file, number)
            os.close(file)
        assert outlet.write(b"two\n")
        gc.collect()
        assert os.write(number, b"theirs") == 6
        os.close(number)
        assert read_all(reader) == b"one\ntwo\n"
