"""What a job leaves changed in its process. tests/process/test_spoiled.py plays it with real workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.worker.putback import PutBack
from framework.worker.ruin import SelfCheck, descriptors

SIGNALS = (signal.SIGTERM, signal.SIGALRM, signal.SIGINT)


@pytest.fixture
def put_back() -> Iterator[PutBack]:
    touched = (*SIGNALS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1)
    before, place, mask = {number: signal.getsignal(number) for number in touched}, os.getcwd(), os.umask(0o22)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found = PutBack(SIGNALS, print)
    found.remember()
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)
    os.umask(mask)
    os.chdir(place)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_a_handler_that_a_job_has_installed(put_back: PutBack, number: signal.Signals, handler: object) -> None:
    """By identity: Python's own functions, without the enum that `signal` wraps around their answers."""
    ours = signal.getsignal(number)
    assert not put_back.after_job()
    signal.signal(number, handler)  # type: ignore[arg-type]
    assert put_back.after_job()
    assert signal.getsignal(number) is ours
    assert not put_back.after_job()


def test_the_state_of_the_lifespan_is_kept(put_back: PutBack) -> None:
    put_back, ours = PutBack(SIGNALS, print), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGCHLD, theirs := lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    put_back.remember()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)) == (ours, theirs)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    put_back.between_jobs()
    assert signal.getsignal(signal.SIGCHLD) is theirs


def test_a_descriptor_that_took_the_number_of_the_directory(put_back: PutBack, tmp_path: Path) -> None:
    """A handler has closed it, and the number is another file's: going there would be worse than the path."""
    before = os.getcwd()
    os.dup2(other := os.open(tmp_path, os.O_RDONLY), put_back._directory)
    os.chdir("/")
    put_back.between_jobs()
    assert os.getcwd() == before
    assert os.stat(other).st_ino == tmp_path.stat().st_ino
    os.close(other)


def test_nothing_has_changed(put_back: PutBack) -> None:
    check = SelfCheck(descriptors())
    assert put_back.everything() == ""
    assert check.changed() == check.cause(OSError(28, "No space left on device")) == ""
