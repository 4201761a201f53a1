"""The file of a job: whole or damaged, never something in between."""

from __future__ import annotations

import os
import random
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.engine.calls import Calls
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import history, job_file
from framework.model.job import Failure, Job

JOB = Job(
    id="näme \ud800",
    uid=bytes(range(16)),
    queue="jobs",
    payload=b"\x00\xff" * 100,
    headers={"traceparent": "00-ab", "ключ": "значение"},
    enqueued_at=1000.25,
    not_before=2000.5,
    ttl=3.5,
    chosen_id=True,
    scheduled_for=1999.75,
)


def whole(data: bytes) -> Job:
    return job_file.decode(data, job_file.layout(data))


def test_a_job_comes_back_as_it_was() -> None:
    assert whole(job_file.encode(JOB)) == JOB
    assert whole(job_file.encode(replace(JOB, payload=b"", headers={}))) == replace(JOB, payload=b"", headers={})


def test_a_torn_file_is_never_a_job() -> None:
    """Every length, and every byte changed.

    Verified: without the checksum of the header, or with one checksum fewer, bytes of this file may change unseen.
    """
    data = job_file.encode(JOB)
    for length in range(len(data)):
        with pytest.raises(job_file.Damaged):
            whole(data[:length])
    for at in range(len(data)):
        with pytest.raises(job_file.Damaged):
            whole(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])


def test_damage_is_named() -> None:
    data = job_file.encode(JOB)
    with pytest.raises(job_file.Damaged, match="truncated"):
        whole(data[:-1])
    other = bytearray(data)
    other[:8] = b"another\n"
    other[60:64] = zlib.crc32(bytes(other[:60])).to_bytes(4, "little")
    with pytest.raises(job_file.Damaged, match="no job file"):
        whole(bytes(other))


def test_a_file_of_zeros_is_damaged() -> None:
    """What delayed allocation leaves after a power cut: the length is there, the data is not."""
    with pytest.raises(job_file.Damaged):
        whole(bytes(5000))


def test_a_later_version_is_named() -> None:
    data = bytearray(job_file.encode(JOB))
    data[8] = 9
    data[60:64] = zlib.crc32(bytes(data[:60])).to_bytes(4, "little")
    with pytest.raises(job_file.Newer, match="format 9 is newer"):
        whole(bytes(data))


def test_a_giant_is_not_read() -> None:
    asked: list[int] = []

    class Large(Calls):
        def pread(self, fd: int, length: int, offset: int) -> bytes:  # type: ignore[override]
            asked.append(length)
            return bytes(length)

    with pytest.raises(job_file.Damaged):
        job_file.content(Disk(Large(), -1, power=False), -1, 1 << 50)
    assert sum(asked) < 1 << 20


def fail(number: int, **fields: object) -> Failure:
    plain = Failure(
        number, "error", f"message {number}", "trace", "ab" * 16, None, "ValueError", "cd" * 8, "jobs", number
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def with_records(count: int) -> bytearray:
    data = bytearray(job_file.encode(JOB))
    base = job_file.layout(bytes(data)).slots_at
    for number in range(count):
        slot = history.encode_record(number, number + 1, fail(number + 1), "retried")
        at = base + history.offset(number)
        if len(data) < at + len(slot):
            data.extend(bytes(at + len(slot) - len(data)))
        data[at : at + len(slot)] = slot
    return data


@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 12, 21, 22, 40])
def test_the_first_and_the_last_ten_attempts_are_kept(count: int) -> None:
    history = whole(bytes(with_records(count))).history
    numbers = list(range(1, count + 1))
    assert [f.attempt for f in history] == (numbers if count <= 11 else [1, *numbers[-10:]])
    assert all(f == fail(f.attempt) for f in history)


@pytest.mark.parametrize("count", [2, 11, 12, 25])
def test_a_torn_record_costs_the_oldest_of_the_ring_only(count: int) -> None:
    """The slot that the next record would go to is torn at every length.

    Verified: with a ring that begins one place late, the second record overwrites the third one's neighbour.
    """
    data = with_records(count)
    before = whole(bytes(data)).history
    base = job_file.layout(bytes(data)).slots_at
    slot = history.encode_record(count, count + 1, fail(count + 1), "retried")
    at = base + history.offset(count)
    data.extend(bytes(max(0, at + len(slot) - len(data))))
    for length in range(1, len(slot)):
        torn = bytearray(data)
        torn[at : at + length] = slot[:length]
        after = whole(bytes(torn)).history
        lost = [f.attempt for f in before if f not in after]
        assert len(lost) <= 1
        assert lost in ([], [before[1].attempt])
        assert 1 in [f.attempt for f in after]


@settings(max_examples=60)
@given(st.text(max_size=1200), st.text(max_size=2500), st.text(max_size=300))
def test_a_record_fits_into_its_page_whatever_it_says(message: str, trace: str, error_type: str) -> None:
    failure = fail(1, message=message, traceback=trace, error_type=error_type)
    slot = history.encode_record(0, 1, failure, "retried")
    assert len(slot) <= history.SLOT
    (record,) = history.records(slot)
    assert message.startswith(record.failure.message)
    assert trace.endswith(record.failure.traceback)


def test_noise_in_the_slots_is_no_history() -> None:
    noise = random.Random(5)
    for _ in range(50):
        assert history.records(noise.randbytes(5 * history.SLOT)) == []
    assert history.records(b"ATT1" + os.urandom(60)) == []


def test_a_flipped_bit_in_a_record_is_no_record() -> None:
    """Also where it would still be JSON."""
    failure = Failure(1, "error", "the message")
    slot = history.encode_record(0, 1, failure, "retried")
    assert [r.failure.message for r in history.records(slot)] == ["the message"]
    assert history.records(slot.replace(b"the message", b"the massage")) == []


def test_the_first_attempt_keeps_slot_0_and_the_others_share_the_ring_behind_it_from_its_first_slot() -> None:
    """Part of the format: elsewhere, workers of two versions would overwrite what is not the oldest."""
    assert [history.offset(number) // history.SLOT for number in range(23)] == [0, *range(1, 11), *range(1, 11), 1, 2]
    slots = bytearray(history.SLOTS * history.SLOT)
    for number in range(12):
        record = history.encode_record(
            number, number + 1, Failure(attempt=number, reason="error", message="no"), "retried"
        )
        slots[history.offset(number) : history.offset(number) + len(record)] = record
    assert [record.sequence for record in history.records(bytes(slots))] == [0, *range(2, 12)]
    assert [record.sequence for record in history.records(bytes(slots[: 2 * history.SLOT]))] == [0, 11]
    assert history.records(bytes(slots[-history.SLOT :])) == [], "a record elsewhere than in its slot is none"
