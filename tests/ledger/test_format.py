"""What stands in a ledger comes back exactly, or not at all."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import replace

import pytest

from framework.engine.ledger import format as form
from framework.engine.ledger.format import PAGE, Damaged, Entry, Newer
from framework.engine.spool.format import history
from framework.model.job import Failure
from framework.model.outcome import SUCCEEDED, Kind, Outcome

from .helpers import failure, lease, retried, run

LEASE = lease(7, queue="a.queue-of_" + "x" * 89, delivery=3)
RUN = run(LEASE, row=5)
HEAD = form.encode_head("1-ab", pid=12, born=1.5, boot="boot")


def a_slot(outcome: Outcome | None = None, *, sent: int = 0, resolved: bool = False) -> bytes:
    body = form.encode_run(LEASE, RUN)
    word = form.commit_of(body)
    ended = b"" if outcome is None else form.encode_outcome(outcome, 2000.25, resolved=resolved)
    words = struct.pack("<4Q", word, form.commit_of(ended, word) if outcome else 0, sent, 0)
    return ((words + body).ljust(form.OUTCOME_AT, b"\0") + ended).ljust(PAGE, b"\0")


def read(*slots: bytes) -> tuple[list[Entry], list[str]]:
    damage: list[str] = []
    data = HEAD + b"".join(slots)
    return list(form.entries(data, form.decode_head(data), damage)), damage


def one(slot: bytes) -> Entry:
    (entry,), damage = read(slot)
    assert damage == []
    return entry


def test_a_header_comes_back() -> None:
    assert len(HEAD) == PAGE
    assert form.decode_head(HEAD) == form.Head(PAGE, PAGE)


def test_a_run_comes_back() -> None:
    entry = one(a_slot())
    assert (entry.run, entry.uid, entry.queue, entry.outcome) == (RUN, LEASE.job.uid, LEASE.queue, None)
    assert entry.key == form.key_of(LEASE)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.LEASE_LOST])
def test_every_outcome_comes_back(kind: Kind) -> None:
    failed = kind in (Kind.RETRIED, Kind.DEAD_LETTERED)
    message = "not wanted: ñ" if kind is Kind.DISCARDED else ""
    outcome = Outcome(kind, 12.5, failure(LEASE) if failed else None, message)
    for sent, resolved in ((0, False), (1, True)):
        entry = one(a_slot(outcome, sent=sent, resolved=resolved))
        assert (entry.outcome, entry.ended_at) == (outcome, 2000.25)
        assert (entry.sent, entry.resolved) == (bool(sent), resolved)


def test_a_lost_lease_counts_as_released_to_whoever_has_it_after_all() -> None:
    assert one(a_slot(Outcome(Kind.LEASE_LOST))).outcome == Outcome(Kind.RELEASED)


def test_the_bytes_of_a_success_are_those_that_the_worker_writes() -> None:
    assert form.encode_outcome(SUCCEEDED, 2000.25) == form.SUCCESS + form.pack_moment(2000.25)


def stored(of: Failure) -> Failure:
    """As the spool would give it back."""
    (record,) = history.records(history.encode_record(0, of.delivery, of, "retried").ljust(PAGE, b"\0"))
    return record.failure


@pytest.mark.parametrize(
    "text",
    ["", "x" * 1000, "\n" * 1000, '"' * 1000, "ñ" * 400, "\ud800 lone"],
    ids=["empty", "long", "lines", "quotes", "two bytes", "surrogate"],
)
def test_a_failure_is_stored_with_the_job_as_if_its_worker_had_lived(text: str) -> None:
    """Verified: with a traceback of 1,000 characters in the ledger the long ones differ."""
    original = failure(LEASE, message=text, traceback=(text * 2)[-2000:], error_type="e" * 200, queue=LEASE.queue)
    entry = one(a_slot(Outcome(Kind.RETRIED, 1.0, original)))
    assert entry.outcome is not None
    assert entry.outcome.failure == original
    assert stored(entry.outcome.failure) == stored(original)


def test_a_text_that_has_no_room_is_cut_and_stays_text() -> None:
    original = failure(LEASE, message="漢" * 5000, traceback="🙂" * 5000)
    entry = one(a_slot(Outcome(Kind.RETRIED, 1.0, original)))
    assert entry.outcome is not None
    cut = entry.outcome.failure
    assert cut is not None
    assert cut.message == "漢" * 1000
    assert set(cut.traceback) <= {"🙂"}
    assert replace(cut, message="", traceback="") == replace(original, message="", traceback="")


def test_a_longer_record_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    body = form.encode_run(LEASE, RUN) + b"later"
    body = struct.pack("<H", len(body)) + body[2:]
    word = form.commit_of(body)
    ended = form.encode_outcome(retried(LEASE), 2000.25) + b"later"
    ended = struct.pack("<H", len(ended)) + ended[2:]
    words = struct.pack("<4Q", word, form.commit_of(ended, word), 0, 0)
    entry = one(((words + body).ljust(form.OUTCOME_AT, b"\0") + ended).ljust(PAGE, b"\0"))
    assert (entry.run, entry.outcome) == (RUN, retried(LEASE))


def test_larger_slots_of_a_later_version_are_read() -> None:
    head = bytearray(HEAD)
    struct.pack_into("<HH", head, 10, 2 * PAGE, 2 * PAGE)
    struct.pack_into("<I", head, form._HEAD.size, zlib.crc32(head[: form._HEAD.size]))
    data = bytes(head).ljust(2 * PAGE, b"\0") + bytes(2 * PAGE) + a_slot().ljust(2 * PAGE, b"\0")
    (entry,) = form.entries(data, form.decode_head(data), [])
    assert (entry.number, entry.run) == (1, RUN)


def test_a_newer_ledger_is_left_to_a_newer_reader() -> None:
    head = bytearray(HEAD)
    struct.pack_into("<H", head, 8, 2)
    struct.pack_into("<I", head, form._HEAD.size, zlib.crc32(head[: form._HEAD.size]))
    with pytest.raises(Newer, match="newer than 1"):
        form.decode_head(bytes(head))


def test_whatever_is_damaged_is_reported_or_gone_and_the_rest_is_right() -> None:
    """No byte that changes makes another run, another outcome or an exception.

    Verified: without the checksum of the run the outcome of another run is taken for this one's.
    """
    choices = random.Random(1)
    good, other = a_slot(retried(LEASE)), a_slot()
    for number in range(3000):
        slot = bytearray(good)
        for _ in range(choices.choice((1, 1, 2, 30))):
            slot[choices.randrange(400) if number % 4 else choices.randrange(PAGE)] = choices.randrange(256)
        if choices.random() < 0.2:
            slot[choices.randrange(PAGE) :] = b""
            slot = slot.ljust(PAGE, choices.choice((b"\0", b"\xff")))
        entries, damage = read(bytes(slot), other)
        assert entries[-1].run == RUN, "the neighbour is not touched"
        for entry in entries[:-1]:
            assert entry.run == RUN
            assert entry.outcome in (None, retried(LEASE))
            # The word alone says whether there is an outcome: where it is gone, so is the outcome, without a trace.
            assert entry.outcome is not None or damage or not any(slot[8:16])
        assert len(entries) == 2 or damage or not any(slot[:8])


@pytest.mark.parametrize(
    "data",
    [b"", b"WLEDGER\n", b"\0" * PAGE, b"\xff" * 3 * PAGE, HEAD[:100], HEAD.replace(b"boot", b"BOOT")],
)
def test_what_is_no_ledger_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        form.decode_head(data)


def test_a_right_checksum_does_not_make_a_run() -> None:
    """Another program, a bug or an attacker may have written it."""
    body = bytearray(form.encode_run(LEASE, RUN))
    for at, value in ((24, struct.pack("<d", float("nan"))), (24, struct.pack("<d", -1.0)), (73, b"\xff/../")):
        wrong = bytes(body[:at] + value + body[at + len(value) :])
        words = struct.pack("<4Q", form.commit_of(wrong), 0, 0, 0)
        entries, damage = read((words + wrong).ljust(PAGE, b"\0"))
        assert (entries, len(damage)) == ([], 1)
