"""The thread that makes all calls of an engine: in order, and a claim that waits steps aside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from framework.worker.gate.engine_thread import EngineThread

LONG = 30.0


class Room:
    """A thread, a wait that only `wake` ends, and what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.woken = threading.Event()
        self.waits = threading.Event()
        self.due = threading.Event()
        self.thread = EngineThread(self.woken.set, self.on_due)

    def on_due(self) -> None:
        self.done.append("due")
        self.due.set()

    def note(self, text: str) -> str:
        self.done.append(text)
        return text

    def claim(self) -> float:
        """A claim that waits for as long as it may; returns how long that was."""

        def wait(seconds: float) -> float:
            self.waits.set()
            self.woken.wait(seconds)
            self.done.append("claimed")
            return seconds

        return float(self.thread.waiting(wait, LONG))


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.thread.close(LONG)


def test_calls_are_made_in_order_by_one_thread(room: Room) -> None:
    futures = [room.thread.call(lambda n=n: (room.note(f"{n}"), threading.get_ident())) for n in range(50)]  # type: ignore[misc]
    idents = {future.result(LONG)[1] for future in futures}
    assert room.done == [f"{n}" for n in range(50)]
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_a_call_ends_a_wait(room: Room) -> None:
    claim = room.thread.call(room.claim)
    assert room.waits.wait(LONG)
    assert room.thread.call(room.note, "other").result(LONG) == "other"
    assert claim.result(LONG) == LONG
    assert room.done == ["claimed", "other"]


def test_a_claim_does_not_wait_where_a_call_has_come_already(room: Room) -> None:
    held = threading.Event()
    room.thread.tell(held.wait, LONG)
    claim, other = room.thread.call(room.claim), room.thread.call(room.note, "other")
    held.set()
    assert claim.result(LONG) == 0.0
    assert other.result(LONG) == "other"


def test_what_is_due_is_done_after_the_calls_that_came_before(room: Room) -> None:
    held = threading.Event()
    room.thread.tell(held.wait, LONG)
    room.thread.by(time.monotonic())
    room.thread.tell(room.note, "call")
    held.set()
    assert room.due.wait(LONG)
    assert room.done == ["call", "due"]


def test_a_pause_ends_with_the_next_call(room: Room) -> None:
    begun = threading.Event()

    def pause() -> None:
        begun.set()
        room.thread.pause(LONG)

    began = time.monotonic()
    paused = room.thread.call(pause)
    assert begun.wait(LONG)
    room.thread.call(room.note, "call").result(LONG)
    assert paused.done()
    assert time.monotonic() - began < LONG


def test_what_a_call_raises_comes_to_who_waits_for_it(room: Room) -> None:
    with pytest.raises(ZeroDivisionError):
        room.thread.call(lambda: 1 / 0).result(LONG)
    assert room.thread.call(room.note, "next").result(LONG) == "next"


def test_what_a_call_raises_for_which_nothing_waits_comes_to_the_next(room: Room) -> None:
    room.thread.tell(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        room.thread.call(room.note, "next").result(LONG)
    assert room.done == []
    room.thread.check()


def test_its_end_makes_the_calls_that_wait_for_their_turn(room: Room) -> None:
    held = threading.Event()
    room.thread.tell(held.wait, LONG)
    for number in range(3):
        room.thread.tell(room.note, f"{number}")
    assert room.thread.busy
    held.set()
    room.thread.close(LONG)
    assert [text for text in room.done if text != "due"] == ["0", "1", "2"]
    assert not room.thread.busy
