"""The queue between maintenance and the hooks process: bounded, whole messages, taken at most once, whoever dies."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from framework.model.events import Event, HookFailed, HooksNotCalled
from framework.model.job import Failure, Job, Lease
from framework.process.mailbox import LARGEST, MOST, Mailbox
from framework.runner.lost import LostAttempts


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    made = Mailbox.made()
    yield made
    os.close(made.descriptor)


def forked(life: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            life()
        finally:
            os._exit(0)
    return pid


def test_first_in_first_out_and_empty_again(mailbox: Mailbox) -> None:
    for lap in range(3):  # several times around
        messages = [f"{lap}-{number}".encode() * (number % 200) for number in range(MOST)]
        assert all(map(mailbox.put, messages))
        assert mailbox.waiting == MOST
        assert [mailbox.take() for _ in range(MOST)] == messages
        assert (mailbox.take(), mailbox.waiting, mailbox.refused()) == (None, 0, 0)


def test_what_finds_no_room_is_counted_and_changes_nothing(mailbox: Mailbox) -> None:
    assert not mailbox.put(bytes(LARGEST + 1))
    assert mailbox.put(bytes(LARGEST))
    for number in range(MOST - 1):
        assert mailbox.put(b"%d" % number)
    assert not mailbox.put(b"one more")
    assert [mailbox.refused(), Mailbox(mailbox.descriptor).refused()] == [2, 0]
    assert mailbox.take() == bytes(LARGEST)
    assert mailbox.put(b"last"), "there is room again, beside the message that is open"
    assert mailbox.abandoned() == bytes(LARGEST), "which is still whole"


def test_it_is_the_same_through_its_descriptor(mailbox: Mailbox) -> None:
    mailbox.put(b"a")
    other = Mailbox(mailbox.descriptor)
    assert other.take() == b"a"
    assert mailbox.waiting == 0
    assert (mailbox.abandoned(), other.abandoned()) == (b"a", None)


def test_only_what_was_open_at_the_death_is_abandoned(mailbox: Mailbox) -> None:
    for each in (b"a", b"b", b"c"):
        mailbox.put(each)

    def life() -> None:
        mailbox.take()
        mailbox.close()
        mailbox.take()
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(life), 0)
    assert [mailbox.abandoned(), mailbox.abandoned(), mailbox.take()] == [b"b", None, b"c"]
    mailbox.close()
    assert mailbox.abandoned() is None


def test_whoever_is_killed_when_nothing_is_torn_doubled_or_lost(mailbox: Mailbox) -> None:
    """Writers are killed and go on where they were, readers too; both count in shared memory as the tree does."""
    chance, total = random.Random(18), 4000
    seen_reader, seen_writer = os.pipe()

    def message(number: int) -> bytes:
        return b"%d:" % number + bytes([number % 251]) * (number * 7 % 1500)

    def write() -> None:
        number = mailbox._words[0]  # as many as were put
        while number < total:
            number += mailbox.put(message(number)) or 0

    def read() -> None:
        while True:
            found = mailbox.take()
            if found is not None:
                os.write(seen_writer, b"taken " + found.partition(b":")[0] + b"\n")
                number = int(found.partition(b":")[0])
                if found != message(number):
                    os.write(seen_writer, b"torn\n")
                mailbox.close()

    lines, abandoned = b"", []
    writer, reader = forked(write), forked(read)
    os.set_blocking(seen_reader, False)
    end = time.monotonic() + 240  # a busy machine is slow; what matters is the end
    while (mailbox._words[0] < total or mailbox.waiting) and time.monotonic() < end:
        # A busy machine may need longer than this pause until a fork runs, and nothing would ever be put or taken.
        before, patience = list(mailbox._words), time.monotonic() + 0.1
        while list(mailbox._words) == before and time.monotonic() < patience:
            time.sleep(0.0002)
        time.sleep(chance.random() * 0.003)
        try:
            lines += os.read(seen_reader, 1 << 16)
        except BlockingIOError:
            pass
        if chance.random() < 0.5:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            writer = forked(write)
        else:
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
            if (left := mailbox.abandoned()) is not None:
                abandoned.append(int(left.partition(b":")[0]))
            reader = forked(read)
    for pid in (writer, reader):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if (left := mailbox.abandoned()) is not None:
        abandoned.append(int(left.partition(b":")[0]))
    os.close(seen_writer)
    os.set_blocking(seen_reader, True)
    while more := os.read(seen_reader, 1 << 16):
        lines += more
    os.close(seen_reader)
    assert b"torn" not in lines
    taken = [int(line.split()[1]) for line in lines.splitlines()]
    assert taken == sorted(set(taken)), "in order, none twice"
    assert set(taken) | set(abandoned) == set(range(total))
    assert len(abandoned) == len(set(abandoned))


# --- what it carries ------------------------------------------------------------------------------------------------


def a_loss(message: str = "died", job_id: str = "j-é", **more: object) -> tuple[Lease, Failure]:
    job = Job(job_id, b"0" * 16, "home", b"secret", {"traceparent": "x"}, 5.5, scheduled_for=6.5)
    failure = Failure(2, "worker_lost", message, trace_id="a" * 32, span_id="b" * 16, queue="q", delivery=3, **more)  # type: ignore[arg-type]
    return Lease(job, "q", 2, 3, 5.5, token=object()), failure


def test_the_hook_sees_what_is_known_of_the_failure(mailbox: Mailbox) -> None:
    lost = LostAttempts(mailbox)
    lease, failure = a_loss(started_at=1.25, ended_at=2.5)
    lost.put(lease, failure)
    assert lost.wait()
    found = lost.take()
    assert found is not None
    assert found[1] == failure
    seen = found[0]
    assert (seen.queue, seen.attempt, seen.delivery, seen.job.id, seen.job.queue) == ("q", 2, 3, "j-é", "home")
    assert (seen.job.enqueued_at, seen.job.scheduled_for, seen.job.payload) == (5.5, 6.5, b"")
    assert not lost.wait()


@pytest.mark.parametrize("message", ["€" * 1000, "\ud800" * 1000, '"' * 1000])
def test_a_message_that_is_too_long_is_told_shorter(mailbox: Mailbox, message: str) -> None:
    lost = LostAttempts(mailbox)
    lost.put(*a_loss(message))
    found = lost.take()
    assert found is not None
    assert 200 <= len(found[1].message) <= 1000
    assert mailbox.refused() == 0


def test_what_became_of_a_hook_that_ended_its_process_is_said_once(mailbox: Mailbox) -> None:
    lost, said = LostAttempts(mailbox), list[Event]()
    lost.say_abandoned(said.append, "killed", "signal SIGKILL")
    assert said == []
    lost.put(*a_loss())
    lost.put(*a_loss())
    lost.take()
    lost.say_abandoned(said.append, "killed", "signal SIGKILL")
    lost.say_abandoned(said.append, "killed", "signal SIGKILL")
    [failed] = said
    assert isinstance(failed, HookFailed)
    assert (failed.queue, failed.job_id, failed.error) == (
        "q",
        "j-é",
        "the hooks process died while on_failure ran: signal SIGKILL",
    )
    said.clear()
    lost.say_left(said.append)
    assert said == [HooksNotCalled("on_failure", 1, "the service has ended")]


def test_how_many_found_no_room_is_said_with_a_count(mailbox: Mailbox) -> None:
    lost, said = LostAttempts(mailbox), list[Event]()
    for _ in range(MOST + 3):
        lost.put(*a_loss())
    lost.say_refused(said.append)
    lost.say_refused(said.append)
    lost.put(*a_loss())
    lost.say_refused(said.append)
    assert [event.count for event in said if isinstance(event, HooksNotCalled)] == [3, 1]
