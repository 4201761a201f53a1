"""What a ring's writer counts in place: settlements always, successes where the ring is full; and facts in a ring."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from framework.telemetry import attempts, names
from framework.telemetry.export.aggregation import Cells
from framework.telemetry.ring import facts, records, tallies
from framework.telemetry.ring.ring import RingReader, create
from framework.telemetry.ring.ringwriter import RingWriter
from framework.telemetry.ring.tallies import Tallies

META = {"resource": {"service.name": "relay"}, "scope": ["s", "1"], "system": "spool"}
ACK = records.operation_key("q", "ack", "settle")


def opened(place: Path, capacity: int = 1 << 16) -> tuple[RingWriter, RingReader]:
    path = place / "0.q.m.ring"
    create(path, capacity=capacity)
    return RingWriter(path, META), RingReader(path)


def success(writer: RingWriter, number: int, *, duration: float = 0.02, wait: float = 40.0, flags: int = 1) -> bytes:
    span_id = number.to_bytes(8, "big")
    job_id = b"job-%d" % number
    size, pack = facts.packer(1, len(job_id))
    numbers = (duration, wait, 2, b"t" * 16, span_id, 1, attempts.NO_TRACE, attempts.NO_SPAN, 1, 11)
    head = (size, records.FACTS, flags, 1, writer.pid, len(job_id))
    writer.success(pack(*head, *numbers, b"q", job_id, size))
    return span_id


def histogram(cells: Cells, name: str, **attributes: str) -> Any:
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    (found,) = [h for (n, at), h in cells.series()[1].items() if n == name and wanted.items() <= dict(at).items()]
    return found


def test_a_settlement_is_counted_where_it_stands_and_by_the_next_process_of_the_slot(tmp_path):
    writer, reader = opened(tmp_path)
    for seconds in (0.005, 0.0051, 20.0):
        writer.settled(ACK, seconds)
    again = RingWriter(reader.path, META)
    again.settled(records.operation_key("q", "dead_letter", "settle"), 1.0)
    again.settled(ACK, 0.001)
    assert reader.head == 0
    found = histogram(Cells(reader, "spool"), names.OPERATION_DURATION, messaging__operation__name="ack")
    assert found.counts == [2, 1, *[0] * 12, 1]
    assert (found.total, found.minimum, found.maximum) == (pytest.approx(20.0111), 0.001, 20.0)
    lettered = histogram(Cells(reader, "spool"), names.OPERATION_DURATION, messaging__operation__name="dead_letter")
    assert (sum(lettered.counts), lettered.total) == (1, 1.0)


def test_what_has_no_place_becomes_a_record_and_is_counted_with_the_others(tmp_path):
    writer, reader = opened(tmp_path, 1 << 20)
    writer.settled(ACK, 0.001)
    for number in range(300):
        writer.settled(records.operation_key(f"{number}", "ack", "settle"), 0.001)
    writer.settled(ACK, -1.0)  # a clock that went back
    cells = Cells(reader, "spool")
    cells.aggregate()
    assert 0 < reader.head
    counts = [sum(h.counts) for (name, _), h in cells.series()[1].items() if name == names.OPERATION_DURATION]
    assert sum(counts) == 302
    assert sum(histogram(cells, names.OPERATION_DURATION, messaging__destination__name="q").counts) == 2


def test_a_full_ring_drops_spans_and_counts_them_and_every_success_exactly(tmp_path):
    writer, reader = opened(tmp_path, 1 << 15)
    ids = [success(writer, number) for number in range(1000)]
    sampled, unsampled = 1000, 50
    ids += [success(writer, 5000 + number, flags=0) for number in range(unsampled)]
    cells = Cells(reader, "spool")
    cells.aggregate()
    counts, _ = cells.series()
    assert list(counts.values()) == [sampled + unsampled]
    duration, wait = histogram(cells, names.PROCESS_DURATION), histogram(cells, names.QUEUE_WAIT_DURATION)
    assert sum(duration.counts) == sum(wait.counts) == sampled + unsampled
    assert (duration.total, wait.total) == (pytest.approx(0.02 * 1050), pytest.approx(40.0 * 1050))
    whole = sum(record.flags & records.SAMPLED for record in reader.records(0, reader.head))
    assert 0 < whole
    assert cells.dropped == {"traces": sampled - whole, "metrics": 0}
    assert reader.known(dict.fromkeys(ids[-100:], 0.0)) == set(ids[-100:]), "a rescuer knows them all the same"
    cells.commit(floor=reader.head)
    success(writer, 9999)
    cells.aggregate()
    assert sum(histogram(cells, names.PROCESS_DURATION).counts) == sampled + unsampled + 1


def test_facts_are_whole_or_not_there_and_known_though_the_writer_was_killed_and_the_ring_wraps(tmp_path):
    path = tmp_path / "0.q.m.ring"
    create(path, capacity=1 << 14)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            writer, reader = RingWriter(path, META), RingReader(path)
            for number in range(500):
                success(writer, number)
                reader.commit({"folded": reader.head})
                reader.set_sent(reader.head - 2048 if reader.head > 2048 else 0)
            writer._memory[writer.path.stat().st_size - 10 :] = b"half a rec"
            os.write(write, b"x")
            signal.pause()
        finally:
            os._exit(1)  # never back into pytest
    os.close(write)
    assert os.read(read, 1) == b"x", "the writer failed"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reader = RingReader(path)
    newest = next(reader.backwards())
    assert (newest.kind, newest.span_id, newest.key) == (records.FACTS, (499).to_bytes(8, "big"), b"q")
    assert newest.span == b"job-499"
    assert reader.known({(498).to_bytes(8, "big"): 0.0}) == {(498).to_bytes(8, "big")}


def test_a_tally_killed_before_its_last_store_was_never_made():
    memory = memoryview(bytearray(tallies.BYTES))
    one = Tallies(memory)
    assert one.add(tallies.SETTLEMENT, b"a", 0.1)
    begun = 44 * 8
    memory[begun + 8 : begun + 16] = b"unfinish"  # a key of a place that nobody has taken
    assert [tally.key for tally in one.read()] == [b"a"]
    other = Tallies(memory)
    assert other.add(tallies.SETTLEMENT, b"b", 0.1)
    assert [(tally.key, sum(tally.counts)) for tally in other.read()] == [(b"a", 1), (b"b", 1)]
    assert not other.add(tallies.SETTLEMENT, b"k" * 129, 0.1)
    for seconds in (float("nan"), float("inf")):
        with pytest.raises((ValueError, OverflowError)):
            other.add(tallies.SETTLEMENT, b"b", seconds)
