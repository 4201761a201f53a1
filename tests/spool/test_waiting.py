"""The notifier and wake(): who waits is called, and the notifier is never the truth."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from framework.engine.spool.claim.notifier import Listener, Notifier
from framework.engine.spool.engine import SpoolEngine
from tests.support.settling import ack, bury, rest, retry

from .world import broker, ids, in_child, job


class Watched:
    """A broker's notifier, watched: how long each wait was to be, and whether the notifier ended it."""

    def __init__(self, broker: SpoolEngine, queue: str = "jobs") -> None:
        self.seconds: list[float] = []
        self.rang: list[bool] = []
        self._notifier = broker._spool._parts[queue].notifier
        self._real = broker._spool.claims._listen
        broker._spool.claims._listen = self._wait

    def _wait(self, notifiers: Sequence[Notifier], seconds: float, *, keep: float) -> tuple[bool, Collection[Notifier]]:
        self.seconds.append(seconds)
        woken, rang = self._real(notifiers, seconds, keep=keep)
        self.rang.append(self._notifier in rang)
        return woken, rang


def in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_an_enqueue_in_another_process_ends_the_wait(root: Path) -> None:
    """Verified: without the ring the wait ends by its timeout."""
    mine = broker(root)
    assert not mine.claim(["jobs"], limit=1, wait=0)
    notifier = Watched(mine)
    found: list[str] = []
    waiter = in_thread(lambda: found.extend(ids(mine.claim(["jobs"], limit=1, wait=1))))
    in_child(lambda: broker(root).enqueue([job("a")]))
    waiter.join()
    assert found == ["a"]
    assert notifier.rang[-1:] == [True]
    mine.close()


def test_two_jobs_call_two_waiters(root: Path) -> None:
    """The first waiter must not take the second one's ring.

    Verified: where the one who took the rings does not ring on, the other one sleeps to its end.
    """
    for round_ in range(5):
        producer = broker(root)
        waiters = [broker(root) for _ in range(2)]
        found: list[str] = []
        for mine in waiters:
            assert not mine.claim(["jobs"], limit=1, wait=0)
        notifiers = [Watched(mine) for mine in waiters]
        threads = [
            in_thread(lambda mine=mine: found.extend(ids(mine.claim(["jobs"], limit=1, wait=1)))) for mine in waiters
        ]
        producer.enqueue([job(f"{round_}a"), job(f"{round_}b")])
        for thread in threads:
            thread.join()
        assert sorted(found) == [f"{round_}a", f"{round_}b"]
        assert all(notifier.rang[-1:] == [True] or not notifier.rang for notifier in notifiers)
        for mine in (producer, *waiters):
            mine.close()
        cleaner = broker(root)
        ack(cleaner, cleaner.claim(["jobs"], limit=10, wait=0))
        cleaner.close()


@pytest.mark.parametrize("verb", ["release", "retry", "bury", "replay"])
def test_whatever_makes_a_job_runnable_rings(root: Path, verb: str) -> None:
    from .world import claim, failure, one

    mine, waiter = broker(root), broker(root)
    mine.enqueue([job("a")])
    queue = "letters" if verb == "bury" else "jobs"
    lease = one(mine)
    if verb == "replay":
        bury(mine, lease, failure=failure(lease))
        lease = one(mine, "letters")
        rest(mine, lease)
    assert not claim(waiter, queue)
    Listener(waiter._spool.waker)([waiter._spool._parts[queue].notifier], 0)  # old rings
    found: list[str] = []
    watched = Watched(waiter, queue)
    thread = in_thread(lambda: found.extend(ids(waiter.claim([queue], limit=1, wait=1))))
    if verb == "release":
        mine.release([lease])
    elif verb == "retry":
        retry(mine, lease, delay=0, failure=failure(lease))
    elif verb == "bury":
        bury(mine, lease, failure=failure(lease))
    else:
        (view,) = mine.browse("letters", "dead")
        assert mine.replay(view)
    thread.join()
    assert found == ["a"]
    assert False not in watched.rang
    mine.close()
    waiter.close()


def test_without_a_notifier_polling_finds_it(root: Path) -> None:
    """Somebody put a file in the FIFO's place. Verified: with the notifier as the truth nothing is found."""
    broker(root).close()
    (root / "jobs" / "doorbell").unlink()
    (root / "jobs" / "doorbell").write_text("no notifier")
    mine = broker(root)
    notifier = Watched(mine)
    timer = threading.Timer(0.05, lambda: in_child(lambda: broker(root).enqueue([job("a")])))
    timer.start()
    found = ids(mine.claim(["jobs"], limit=1, wait=1)) or ids(mine.claim(["jobs"], limit=1, wait=1))
    timer.join()
    assert found == ["a"]
    assert max(notifier.seconds) <= 1.0
    assert True not in notifier.rang
    assert (root / "jobs" / "doorbell").read_text() == "no notifier"
    mine.close()


def test_wake_from_a_thread_ends_the_wait_or_the_next(spool: SpoolEngine) -> None:
    spool.wake()
    start = time.monotonic()
    for _ in range(20):
        spool.wake()
        assert spool.claim(["jobs"], limit=1, wait=1) == []
    assert time.monotonic() - start < 20  # 20 unwoken waits would take 20 s
    waiter = in_thread(lambda: spool.claim(["jobs"], limit=1, wait=1))
    spool.wake()
    waiter.join()


def test_wake_in_a_signal_handler(spool: SpoolEngine) -> None:
    """PEP 475 restarts the poll after the handler; the byte in the pipe ends it."""
    old = signal.signal(signal.SIGUSR1, lambda *_: spool.wake())
    try:
        rounds = 0
        start = time.monotonic()
        for _ in range(10):
            threading.Timer(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
            assert spool.claim(["jobs"], limit=1, wait=1) == []
            rounds += 1
        assert rounds == 10
        assert time.monotonic() - start < 10
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_a_full_notifier_rings_and_blocks_nobody(spool: SpoolEngine, root: Path) -> None:
    fd = os.open(root / "jobs" / "doorbell", os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        pass
    spool.enqueue([job("a")])
    assert ids(spool.claim(["jobs"], limit=1, wait=1)) == ["a"]
    for _ in range(3):
        assert spool.claim(["jobs"], limit=1, wait=0.01) == []
    os.close(fd)


def test_a_notifier_that_a_handler_has_closed_fails_no_enqueue(spool: SpoolEngine) -> None:
    notifier = spool._spool._parts["jobs"].notifier
    notifier.ring()
    assert notifier._fd is not None
    os.close(notifier._fd)
    spool.enqueue([job("a")])
    assert ids(spool.claim(["jobs"], limit=1, wait=1)) == ["a"]


def test_a_notifier_writes_nothing_into_the_file_that_has_its_number_now(spool: SpoolEngine, tmp_path: Path) -> None:
    """Regression: a handler closed all descriptors and opened a file; the next enqueue put a byte into it."""
    notifier = spool._spool._parts["jobs"].notifier
    notifier.ring()
    number = notifier._fd
    assert number is not None
    with (tmp_path / "theirs").open("wb") as file:
        os.dup2(file.fileno(), number)
        spool.enqueue([job("a")])
        assert os.write(number, b"theirs") == 6
    os.close(number)
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert ids(spool.claim(["jobs"], limit=1, wait=1)) == ["a"]


def test_a_notifier_without_anybody_kills_no_producer(root: Path) -> None:
    """No EPIPE and no SIGPIPE, even where the host has the default handler."""

    def live() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        mine = broker(root)
        for number in range(3):
            mine.enqueue([job(f"n{number}")])

    in_child(live)


def test_a_forked_childs_wake_is_its_own(spool: SpoolEngine) -> None:
    """Verified: with the parent's pipe kept, the child's wake() ends the parent's wait."""
    in_child(spool.wake)
    start = time.monotonic()
    assert spool.claim(["jobs"], limit=1, wait=0.1) == []
    assert time.monotonic() - start >= 0.1


def test_a_closed_broker_may_be_woken(root: Path) -> None:
    mine = broker(root)
    mine.close()
    mine.wake()
