"""The format of a ledger file: a page of header, then slots of a page each.

    slot: four words of 8 bytes · the run · the outcome, with the failure's texts

The first two words commit the run and the outcome: 0 means that there is none, any other value is a bit and the
checksum of the bytes. A word is stored at once, so a killed process leaves a whole record or none; a record that does
not match its checksum is damaged. A run or an outcome may grow at its end in later versions: its length comes first,
and a reader ignores the bytes that it does not know.
"""

from __future__ import annotations

import errno
import math
import struct
import zlib
from collections.abc import Iterator

from framework.model.extras import LATEST
from framework.model.frozen import frozen
from framework.model.job import Failure, Lease, Run, RunRecord
from framework.model.options import NAME
from framework.model.outcome import SUCCEEDED, Kind, Outcome

VERSION = 1  # version of the oldest reader that can read a file
PAGE = 4096  # bytes of the header, and of a slot
RUN, OUTCOME, TOLD = range(3)  # words of a slot
WORDS = PAGE // 8  # from one slot's word to the next one's
RUN_AT, OUTCOME_AT = 32, 256
COMMITTED = 1 << 32
MOST_SLOTS = 1 << 14

_MAGIC = b"WLEDGER\n"
# magic, oldest reader, bytes of header and of a slot, pid, born (s), boot, length of incarnation, incarnation
_HEAD = struct.Struct("<8sHHHxxId36sH200s")
_CRC = struct.Struct("<I")
_ABOUT = struct.Struct("<II")  # length and checksum of what the owner says of itself, which follows them
_ABOUT_AT = _HEAD.size + _CRC.size
_MOST_ABOUT = PAGE - _ABOUT_AT - _ABOUT.size
_WORD = struct.Struct("<Q")
# length, row, attempt, sampled, delivery, started at, uid, trace id and span id, length of queue, queue
_RUN = struct.Struct("<HxxII?3xQd16s24sB100s")
# length, kind, flags, delay, ended at
_OUTCOME = struct.Struct("<HBBxxxxdd")
_FAILURE = struct.Struct("<I4xdd8H")  # attempt, started at, ended at, lengths of the texts
_TEXTS_AT = _OUTCOME.size + _FAILURE.size
_TEXT_ROOM = PAGE - OUTCOME_AT - _TEXTS_AT
RUN_SIZE = _RUN.size
NO_OUTCOME = bytes(RUN_AT - 8)  # the words after the first, all 0
_RESCUER, _FAILED = 1, 2  # flags: a rescuer has decided the outcome; the outcome has a failure
_KINDS = (
    Kind.SUCCEEDED, Kind.RETRIED, Kind.DEAD_LETTERED, Kind.RELEASED, Kind.DISCARDED, Kind.ARCHIVED, Kind.CANCELLED,
)  # fmt: skip
_CODE = {kind: number for number, kind in enumerate(_KINDS)}
_CODE[Kind.LEASE_LOST] = _CODE[Kind.RELEASED]  # a process that has the lease after all does not charge the attempt
SUCCESS = _OUTCOME.pack(_OUTCOME.size, _CODE[Kind.SUCCEEDED], 0, 0.0, 0.0)[:-8]
pack_moment = struct.Struct("<d").pack
_LATEST_NS = (2**63 - 1) / 1e9  # seconds since the epoch; a span stores nanoseconds in 64 bits
_MOST_NUMBER = 2**32 - 1
_MESSAGE, _TRACE = 1000, 2000  # characters that are kept of a message and of a traceback

Key = tuple[bytes, str, int]  # uid, queue, delivery


class Damaged(ValueError):
    """The bytes are not a ledger, or not a record that a worker can have written."""


class Newer(OSError):
    """The ledger needs a newer reader. This version leaves it and the leases of its owner as they are."""

    def __init__(self, version: int) -> None:
        super().__init__(
            errno.EPROTONOSUPPORT,
            f"its format {version} is newer than {VERSION}, which this version of the framework reads",
        )


@frozen
class Head:
    """The sizes of the header (`slots_at`) and of a slot, in bytes. The other fields of a header are for people.

    `about`: what the owner says of itself, for the telemetry of its rescuer; empty: nothing.
    """

    slots_at: int
    slot: int
    about: bytes = b""


@frozen
class Entry:
    """The record of one outstanding lease, as a slot holds it.

    Attributes:
        number: number of the slot.
        uid, queue: the job's uid and queue.
        run: the run, as the worker wrote it before the handler started.
        outcome: how the run ended; None if the handler was running.
        ended_at: end of the run in seconds since the epoch.
        resolved: a rescuer has decided the outcome, not the worker.
        sent: telemetry has the attempt.
    """

    number: int
    uid: bytes
    queue: str
    run: RunRecord
    outcome: Outcome | None = None
    ended_at: float = 0.0
    resolved: bool = False
    sent: bool = False

    @property
    def key(self) -> Key:
        """Return the key that identifies the lease."""
        return self.uid, self.queue, self.run.delivery


def key_of(lease: Lease) -> Key:
    """Return the key that identifies a lease in a ledger."""
    return lease.job.uid, lease.queue, lease.delivery


def encode_head(incarnation: str, *, pid: int, born: float, boot: str, about: bytes = b"") -> bytes:
    """Return the header of a new ledger. What the owner says `about` itself is left out if it is too long."""
    name = incarnation.encode("utf-8", "surrogatepass")
    head = _HEAD.pack(_MAGIC, VERSION, PAGE, PAGE, pid, born, boot.encode("ascii", "replace")[:36], len(name), name)
    about = about if len(about) <= _MOST_ABOUT else b""
    more = _ABOUT.pack(len(about), zlib.crc32(about)) + about
    return (head + _CRC.pack(zlib.crc32(head)) + more).ljust(PAGE, b"\0")


def decode_head(data: bytes) -> Head:
    """Decode the header of a ledger. Raises Damaged, Newer."""
    if not data.startswith(_MAGIC) or len(data) < _HEAD.size + 4:
        raise Damaged("no ledger")
    head = data[: _HEAD.size]
    if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(head):
        raise Damaged("checksum of the header")
    _, version, slots_at, slot, *_, length, name = _HEAD.unpack(head)
    if version > VERSION:
        raise Newer(version)
    if version < 1 or slots_at < PAGE or slot < PAGE or slots_at % 8 or slot % 8 or length > len(name):
        raise Damaged(f"version {version}, header of {slots_at} bytes, slots of {slot}")
    return Head(slots_at, slot, _about_of(data))


def _about_of(data: bytes) -> bytes:
    """Return what stands behind the checksum of the header; empty: an older version wrote none, or it is damaged."""
    if len(data) < PAGE:
        return b""
    length, checksum = _ABOUT.unpack_from(data, _ABOUT_AT)
    about = data[_ABOUT_AT + _ABOUT.size : _ABOUT_AT + _ABOUT.size + min(length, _MOST_ABOUT)]
    return about if zlib.crc32(about) == checksum else b""


def encode_run(lease: Lease, run: Run) -> bytes:
    """Return the bytes of a run."""
    queue = lease.queue.encode("ascii")
    return _RUN.pack(
        _RUN.size, run.row, lease.attempt, run.sampled, lease.delivery, run.started_at, lease.job.uid, run.ids,
        len(queue), queue,
    )  # fmt: skip


def commit_of(data: bytes, before: int = 0) -> int:
    """Return the word that commits a run or an outcome. For an outcome, `before` is the word of its run."""
    return COMMITTED | zlib.crc32(data, before & 0xFFFFFFFF)


def encode_outcome(outcome: Outcome, ended_at: float, *, resolved: bool = False) -> bytes:
    """Return the bytes of an outcome. Texts that do not fit are cut, first the beginning of the traceback."""
    failure, flags = outcome.failure, _RESCUER if resolved else 0
    if outcome is SUCCEEDED or (failure is None and not outcome.message):
        return _OUTCOME.pack(_OUTCOME.size, _CODE[outcome.kind], flags, outcome.delay, ended_at)
    if failure is None:
        numbers, texts = (0, 0.0, 0.0), _fitting(outcome.message, "")
    else:
        flags |= _FAILED
        numbers = (failure.attempt, failure.started_at, failure.ended_at)
        texts = _fitting(
            failure.message,
            failure.traceback,
            *(failure.reason, failure.error_type, failure.trace_id, failure.span_id, failure.queue),
        )
    head = _OUTCOME.pack(
        _TEXTS_AT + sum(map(len, texts)), _CODE[outcome.kind], flags, outcome.delay, ended_at
    ) + _FAILURE.pack(*numbers, *map(len, texts), *[0] * (8 - len(texts)))
    return b"".join((head, *texts))


def _fitting(message: str, trace: str, *others: str) -> list[bytes]:
    """Return the texts in UTF-8, cut so that they fit into a slot."""
    rest = [text[:200].encode("utf-8", "surrogatepass") for text in others]
    room = _TEXT_ROOM - sum(map(len, rest))
    head = message[:_MESSAGE].encode("utf-8", "surrogatepass")
    tail = trace[-_TRACE:].encode("utf-8", "surrogatepass")
    if len(head) + len(tail) > room:
        tail = _whole(tail[len(tail) - max(0, room - len(head)) :] if room > len(head) else b"")
        head = _whole(head[:room])
    return [head, tail, *rest]


def _whole(data: bytes) -> bytes:
    """Return UTF-8 bytes without the incomplete characters at their ends."""
    return data.decode("utf-8", "ignore").encode("utf-8")


def entries(data: bytes, head: Head, damage: list[str]) -> Iterator[Entry]:
    """Yield the entries in the slots, without the damaged ones.

    Args:
        data: the whole file.
        damage: gets a line for each damaged run or outcome.
    """
    for number, at in enumerate(range(head.slots_at, len(data) - head.slot + 1, head.slot)):
        slot = data[at : at + head.slot]
        word = _WORD.unpack_from(slot)[0]
        if word == 0:
            continue
        try:
            entry = _decode_run(number, slot, word)
        except (Damaged, ValueError, struct.error) as error:
            damage.append(f"slot {number}: {error}")
            continue
        try:
            yield _with_outcome(entry, slot, word)
        except (Damaged, ValueError, struct.error) as error:
            damage.append(f"slot {number}, its outcome: {error}")
            yield entry


def occupied(data: bytes, head: Head) -> list[int]:
    """Return the numbers of the slots that are in use, damaged ones included."""
    offsets = range(head.slots_at, len(data) - head.slot + 1, head.slot)
    return [number for number, at in enumerate(offsets) if _WORD.unpack_from(data, at)[0]]


def _decode_run(number: int, slot: bytes, word: int) -> Entry:
    """Decode a slot's run and return its entry, without an outcome. Raises Damaged."""
    (length,) = struct.unpack_from("<H", slot, RUN_AT)
    body = slot[RUN_AT : RUN_AT + length]
    if not _RUN.size <= length <= OUTCOME_AT - RUN_AT or commit_of(body) != word:
        raise Damaged("checksum of the run")
    _, row, attempt, sampled, delivery, started_at, uid, ids, length, queue = _RUN.unpack_from(body)
    name = queue[:length].decode("ascii", "replace")
    if not 0 <= started_at <= _LATEST_NS or delivery > _MOST_NUMBER or not NAME.fullmatch(name):
        raise Damaged("a run that cannot be")  # also where a number is NaN
    run = RunRecord(row, delivery, attempt, started_at, _text(ids[:16]), _text(ids[16:]), sampled)
    return Entry(number, uid, name, run)


def _with_outcome(entry: Entry, slot: bytes, run_word: int) -> Entry:
    """Return the entry with its outcome, if it has one. Raises Damaged."""
    _, word, sent = struct.unpack_from("<3Q", slot)
    if word == 0:
        return entry
    (length,) = struct.unpack_from("<H", slot, OUTCOME_AT)
    body = slot[OUTCOME_AT : OUTCOME_AT + length]
    if len(body) != length or length < _OUTCOME.size or commit_of(body, run_word) != word:
        raise Damaged("checksum of the outcome")
    _, code, flags, delay, ended_at = _OUTCOME.unpack_from(body)
    if not (0 <= delay < math.inf and 0 <= ended_at <= LATEST) or code >= len(_KINDS):
        raise Damaged("an outcome that cannot be")
    outcome = Outcome(_KINDS[code], delay)
    if length > _OUTCOME.size:
        outcome = _with_texts(outcome, body, flags, entry)
    return Entry(entry.number, entry.uid, entry.queue, entry.run, outcome, ended_at, bool(flags & _RESCUER), bool(sent))


def _with_texts(outcome: Outcome, body: bytes, flags: int, entry: Entry) -> Outcome:
    attempt, started_at, ended_at, *lengths = _FAILURE.unpack_from(body, _OUTCOME.size)
    texts, at = [], _TEXTS_AT
    for length in lengths:
        texts.append(body[at : at + length].decode("utf-8", "surrogatepass"))
        at += length
    message, trace, reason, error_type, trace_id, span_id, queue, _ = texts
    if not flags & _FAILED:
        return Outcome(outcome.kind, outcome.delay, message=message)
    if not (0 <= started_at <= LATEST and 0 <= ended_at <= LATEST):
        raise Damaged("moments that cannot be")
    failure = Failure(
        attempt=attempt,
        reason=reason,  # type: ignore[arg-type]  # a later version may know more reasons
        message=message,
        traceback=trace,
        trace_id=trace_id,
        error_type=error_type,
        span_id=span_id,
        queue=queue,
        delivery=entry.run.delivery,
        started_at=started_at,
        ended_at=ended_at,
    )
    return Outcome(outcome.kind, outcome.delay, failure)


def _text(value: bytes) -> str:
    return value.hex() if any(value) else ""
