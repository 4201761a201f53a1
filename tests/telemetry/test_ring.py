"""The ring itself: what was put is found, forwards and backwards, whatever wraps, fills, dies or tears."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.telemetry.ring import records
from framework.telemetry.ring.ring import PAGE, Corrupt, RingFile, RingReader, create
from framework.telemetry.ring.ringwriter import RingWriter

META = {"resource": {"service.name": "relay"}, "scope": ["s", "1"], "system": "spool"}
KEY = records.attempt_key("q", "succeeded", "succeeded", "", "")


def opened(place: Path, capacity: int = 1 << 16) -> tuple[RingWriter, RingReader]:
    path = place / "0.q.m.ring"
    create(path, capacity=capacity)
    return RingWriter(path, META), RingReader(path)


def put(writer: RingWriter, number: int, span: bytes = b"") -> bytes:
    span_id = number.to_bytes(8, "big")
    writer.attempt(KEY, 0.5, 1.5, b"t" * 16, span_id, span)
    return span_id


@given(st.lists(st.binary(max_size=3000), max_size=60), st.integers(3, 12))
@settings(max_examples=60, deadline=None)
def test_everything_comes_out_in_order_and_whole_though_it_wraps(tmp_path_factory, spans, every):
    writer, reader = opened(tmp_path_factory.mktemp("ring"), 1 << 15)
    seen, position = [], 0
    for number, span in enumerate(spans):
        put(writer, number, span)
        if number % every == 0:
            for record in reader.records(position, reader.head):
                position += record.size
                seen.append(record.span)
            reader.commit({"folded": position})
            reader.set_sent(position)
    seen += [record.span for record in reader.records(position, reader.head)]
    kept = [(a, b) for a, b in zip(seen, spans, strict=True) if a == b]
    assert len(seen) == len(spans)
    assert all(a == b or a == b"" for a, b in zip(seen, spans, strict=True))  # a span may be dropped, no record
    assert [int.from_bytes(r.span_id, "big") for r in reader.backwards()] == sorted(
        (int.from_bytes(r.span_id, "big") for r in reader.backwards()), reverse=True
    )
    assert len(kept) + sum(1 for a, b in zip(seen, spans, strict=True) if a != b) == len(spans)


def test_a_full_ring_drops_spans_first_then_counts_what_it_loses_and_never_blocks(tmp_path):
    writer, reader = opened(tmp_path, 1 << 15)
    for number in range(1000):
        put(writer, number, b"x" * 500)
    found = list(reader.records(0, reader.head))
    dropped = [record for record in found if record.flags & records.DROPPED]
    whole = [record for record in found if record.span]
    lost, lost_spans = reader.lost
    assert whole
    assert dropped
    assert len(found) + lost == 1000
    assert lost == lost_spans
    assert len(whole) + len(dropped) + lost == 1000
    before = reader.head
    reader.commit({"folded": before})
    reader.set_sent(before)
    put(writer, 2000, b"again")
    assert [record.span for record in reader.records(before, reader.head)] == [b"again"]


def test_a_span_that_is_too_long_is_dropped_and_its_count_is_not(tmp_path):
    writer, reader = opened(tmp_path, 1 << 22)
    put(writer, 1, b"x" * (records.MOST + 1))
    (record,) = reader.records(0, reader.head)
    assert (record.span, record.flags) == (b"", records.DROPPED)


def test_state_and_tail_change_together_and_a_torn_page_is_noticed(tmp_path):
    _, reader = opened(tmp_path)
    assert reader.load() is None
    for number in range(5):
        reader.commit({"folded": 0, "n": number})
        assert RingReader(reader.path).load() == {"folded": 0, "n": number}
    with open(reader.path, "r+b") as file:
        data = file.read()
        file.seek(data.index(b'"n":4}'))
        file.write(b'"n":9}')
    assert RingReader(reader.path).load() is None
    with pytest.raises(ValueError, match="bytes of state"):
        reader.commit({"folded": 0, "n": "x" * PAGE})


def test_a_commit_that_was_killed_before_its_last_store_leaves_the_one_before(tmp_path):
    writer, reader = opened(tmp_path)
    put(writer, 1)
    reader.commit({"folded": 0})

    class Killed(BaseException): ...

    quads = reader._quads

    class Dying:
        def __getitem__(self, index: int) -> int:
            return quads[index]

        def __setitem__(self, index: int, value: int) -> None:
            raise Killed

    reader._quads = Dying()
    with pytest.raises(Killed):
        reader.commit({"folded": 99})
    again = RingReader(reader.path)
    assert (again.load(), again.counted) == ({"folded": 0}, 0)


def test_what_is_no_record_is_corrupt_and_not_believed(tmp_path):
    writer, reader = opened(tmp_path)
    put(writer, 1, b"span")
    with open(reader.path, "r+b") as file:
        file.seek(reader.path.stat().st_size - reader.capacity)
        file.write(b"\xff" * 64)
    with pytest.raises(Corrupt):
        list(reader.records(0, reader.head))


def knows(file: RingFile, span_id: bytes, *, since: float = 0.0) -> bool:
    """Whether it has one attempt."""
    return span_id in file.known({span_id: since})


def test_all_attempts_are_looked_for_at_once(tmp_path):
    """Recent ones, old ones behind many records, one that is not there; and each only back to its own start."""
    writer, _ = opened(tmp_path, 1 << 20)
    old = [put(writer, number) for number in range(3)]
    for number in range(1000, 3500):
        put(writer, number)
    fresh = RingFile(writer.path)
    recent = [(number).to_bytes(8, "big") for number in (3499, 3000, 1000)]
    nowhere, before = (77777).to_bytes(8, "big"), old[2]
    wanted = dict.fromkeys([*old[:2], *recent, nowhere], 0.0) | {before: time.time() + 60}
    assert fresh.known(wanted) == {*old[:2], *recent}
    assert fresh.known({}) == set()


def test_the_last_words_of_a_dead_process_are_found_though_its_successor_has_overwritten_them(tmp_path):
    writer, reader = opened(tmp_path, 1 << 15)
    mine = [put(writer, number) for number in range(20)]
    key = records.attempt_key("q", "lost", "retried", "worker_lost", "worker_lost")
    writer.attempt(key, 1.0, 0.0, bytes(16), b"lost-one", b"")
    successor = RingWriter(reader.path, META)
    for number in range(1000, 3000):
        put(successor, number)
        reader.commit({"folded": reader.head})
        reader.set_sent(reader.head)
    fresh = RingFile(reader.path)
    assert all(knows(fresh, span_id) for span_id in mine)
    assert knows(fresh, b"lost-one")
    assert knows(fresh, (2999).to_bytes(8, "big"))
    assert not knows(fresh, (77777).to_bytes(8, "big"))


def test_they_are_found_after_any_number_of_lives_as_long_as_nothing_has_overwritten_them(tmp_path):
    """Regression: the third successor's records and table hid them, and a rescuer counted the attempt again, as lost.

    Seen once in 30,000 jobs: a slot was killed three times before maintenance, killed itself, came to the rescue.
    """
    writer, _ = opened(tmp_path, 1 << 20)
    mine = put(writer, 1)
    for life in range(1, 6):
        writer = RingWriter(writer.path, META)
        for number in range(400):
            put(writer, 1000 * life + number)
            writer.operation(records.operation_key("q", "ack", "settle"), 0.1, 1)
    fresh = RingFile(writer.path)
    assert knows(fresh, mine)
    assert knows(fresh, mine, since=time.time() - 60)
    assert not knows(fresh, mine, since=time.time() + 60), "what is older than the attempt is not looked at"
    assert not knows(fresh, (77777).to_bytes(8, "big"))


def test_what_a_killed_writer_committed_is_there_and_what_it_had_not_is_not(tmp_path):
    path = tmp_path / "0.q.m.ring"
    create(path, capacity=1 << 20)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        writer = RingWriter(path, META)
        for number in range(100):
            put(writer, number, b"s" * 100)
        writer._memory[writer.path.stat().st_size - 10 :] = b"half a rec"  # no head: never there
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reader = RingReader(path)
    assert len(list(reader.records(0, reader.head))) == 100
    put(RingWriter(path, META), 100)
    assert [int.from_bytes(r.span_id, "big") for r in reader.records(0, reader.head)] == list(range(101))


class Killed(BaseException):
    """In the middle of a store."""


class Dying:
    """A mapping whose owner is killed as it writes."""

    def __setitem__(self, *_):
        raise Killed


def test_a_writer_killed_before_its_last_store_has_put_nothing(tmp_path):
    writer, reader = opened(tmp_path)
    mine = put(writer, 1)
    head, memory, writer._memory = reader.head, writer._memory, Dying()
    with pytest.raises(Killed):
        put(writer, 2)
    writer._memory = memory
    assert reader.head == head
    assert [record.span_id for record in reader.backwards()] == [mine]


def test_what_a_handler_forks_writes_nothing(tmp_path):
    writer, reader = opened(tmp_path)
    put(writer, 1)
    pid = os.fork()
    if pid == 0:
        put(writer, 2)
        os._exit(0)
    os.waitpid(pid, 0)
    put(writer, 3)
    assert [int.from_bytes(r.span_id, "big") for r in reader.records(0, reader.head)] == [1, 3]


def test_an_old_ring_is_kept_and_a_damaged_one_made_anew(tmp_path):
    writer, reader = opened(tmp_path)
    put(writer, 1)
    create(reader.path, capacity=1 << 16)
    assert RingFile(reader.path).head == writer.head
    reader.path.write_bytes(b"something else" * 100)
    create(reader.path, capacity=1 << 16)
    assert RingFile(reader.path).head == 0
    with pytest.raises(ValueError, match="too many"):
        RingWriter(reader.path, {"resource": {"k": "v" * 10000}})


def test_a_ring_of_another_layout_is_made_anew_and_until_then_not_read(tmp_path):
    writer, reader = opened(tmp_path)
    put(writer, 1)
    with open(reader.path, "r+b") as file:
        file.write(b"WRING1\0\0")
    with pytest.raises(ValueError, match="no ring of this version"):
        RingReader(reader.path)
    create(reader.path, capacity=1 << 16)
    assert RingFile(reader.path).head == 0


def test_the_first_record_and_the_first_last_word_stand_in_the_first_place(tmp_path):
    """Part of the format: a writer and a reader of two versions meet in one ring."""
    writer, reader = opened(tmp_path, 1 << 20)
    first = put(writer, 1)
    data = reader.path.read_bytes()
    record = records.parse(data, len(data) - reader.capacity)
    assert record is not None
    assert record.span_id == first
    assert reader.head == record.size
    entries = [4096 + 8 * number for number in range(512)]
    for life in range(4):  # of 256 last words each: the table is full after two, then begins anew
        for number in range(300):
            put(writer, 1000 * (life + 1) + number)
        writer = RingWriter(reader.path, META)
        if life == 0:
            filled = [at for at in entries if any(reader.path.read_bytes()[at : at + 8])]
            assert filled == entries[:256]
    data = reader.path.read_bytes()
    kept = [int.from_bytes(data[at : at + 8], "big") for at in entries]
    assert kept == [*range(3044, 3300), *range(4044, 4300)]
