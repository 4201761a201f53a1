"""Every system call of the ledger: killed before it, torn within it, failed at it with every errno."""

from __future__ import annotations

import ast
import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import framework.engine.ledger
from framework.engine.ledger import Calls, DeadLedgers, Ledger
from framework.model.outcome import Kind, Outcome
from tests.spool.seam import WRITES, Seam, fail_at, kill_at, pass_on

from .helpers import OWNER, died, files, found, lease, retried, run

NAMES = {name for name in vars(Calls) if not name.startswith("_")}
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ELOOP)
WAYS = [(number, after) for after in (False, True) for number in ERRNOS]
LEASES = [lease(number) for number in range(1, 8)]


@dataclass
class Case:
    """What a process does with the ledgers, and what must be true of jobs 1 and 2 however far it got.

    Attributes:
        stage: what happened before, undisturbed.
        act: gets the seam and what `stage` has returned.
        before, after: what a rescuer reads about job 1 at first, and when the act has come to its end.
    """

    name: str
    stage: Callable[[Path], Any]
    act: Callable[[Path, Seam, Any], Any]
    before: Outcome | str
    after: Outcome | str


RUNS, NOTHING = "it runs", "nothing"
LOST = Outcome(Kind.RETRIED, 2.0, retried(LEASES[0], reason="worker_lost").failure)


def live(ledger: Ledger) -> None:
    for one in LEASES[:2]:
        ledger.begin(one, run(one))


def dead(place: Path) -> None:
    died(place, live)


def mine(place: Path, seam: Seam, _: Any = None) -> Ledger:
    return Ledger(place, "mine", slots=2, calls=seam)  # type: ignore[arg-type]


def birth(place: Path, seam: Seam, _: Any) -> None:
    ledger = mine(place, seam)
    one = LEASES[2]
    ledger.begin(one, run(one))
    ledger.free(one)
    ledger.close()


def growth(place: Path, seam: Seam, _: Any) -> None:
    ledger = mine(place, seam)
    try:
        for one in LEASES[2:]:
            ledger.begin(one, run(one))
    finally:
        for one in LEASES[2:]:
            ledger.free(one)
        ledger.close()


def restored(place: Path, seam: Seam, _: Any) -> None:
    ledger = mine(place, seam)
    (place / "mine.ledger").unlink()
    try:
        assert ledger.restore()
    finally:
        ledger.close()


def resolve(place: Path, seam: Seam, _: Any) -> None:
    with_dead(place, seam, lambda dead: dead.resolve(LEASES[0], LOST))


def settle(place: Path, seam: Seam, _: Any) -> None:
    def step(dead: Any) -> None:
        dead.resolve(LEASES[0], LOST)
        dead.sent(LEASES[0])
        dead.free(LEASES[0])

    with_dead(place, seam, step)


def with_dead(place: Path, seam: Seam, step: Callable[[Any], Any]) -> None:
    ledgers = DeadLedgers(place, calls=seam)  # type: ignore[arg-type]
    try:
        dead = ledgers.of(OWNER)
        if dead is None:
            raise LookupError
        step(dead)
        ledgers.finished(OWNER)
    finally:
        ledgers.close()


def sweep(place: Path, seam: Seam, _: Any) -> None:
    DeadLedgers(place, calls=seam).sweep({"jobs"}, complete=True)  # type: ignore[arg-type]


def with_empty(place: Path) -> None:
    dead(place)
    died(place, lambda ledger: None, owner="empty")


CASES = (
    Case("birth and close", dead, birth, RUNS, RUNS),
    Case("growth", dead, growth, RUNS, RUNS),
    Case("a deleted file", dead, restored, RUNS, RUNS),
    Case("resolve", dead, resolve, RUNS, LOST),
    Case("settle", dead, settle, RUNS, NOTHING),
    Case("sweep", with_empty, sweep, RUNS, RUNS),
)


def known(place: Path) -> list[Outcome | str]:
    """What a rescuer reads about jobs 1 and 2."""
    return [NOTHING if entry is None else entry.outcome or RUNS for entry in found(place, *LEASES[:2])]


def hold(case: Case, place: Path, done: bool) -> None:
    """A job is as it was, or as it was to be; or, on the way from the one to the other, without its new outcome."""
    first, second = known(place)
    assert second == RUNS
    if done:
        assert first == case.after
    else:
        assert first in (case.before, LOST, case.after)
    ledgers = DeadLedgers(place)
    ledgers.sweep((), complete=False)
    ledgers.close()
    assert set(files(place)) <= {f"{OWNER}.ledger", "mine.ledger"}
    if done:
        assert files(place) == [f"{OWNER}.ledger"]
    assert known(place)[1] == RUNS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("torn", [False, True], ids=["before", "within"])
def test_a_kill_at_any_call_leaves_what_was_or_what_was_to_be(case: Case, torn: bool, place: Path) -> None:
    number, done = 0, False
    while not done:
        at = place / str(number)
        case.stage(at)
        done = _lives(case, at, number, torn)
        hold(case, at, done)
        number += 1
    assert number > 1


def _lives(case: Case, place: Path, number: int, torn: bool) -> bool:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            seam = Seam(calls=Calls)
            seam.arm(kill_at(number, torn=torn))
            case.act(place, seam, None)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"call {number}: {status}"
    return status == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("first_way", range(len(WAYS)) if os.environ.get("EVERY") else [0])
def test_an_error_at_any_call_is_an_error_or_nothing(case: Case, first_way: int, place: Path) -> None:
    """An OSError that says so, or what does without the call; never another exception, never another's record lost.

    EVERY=1, as `make faults` sets it, for every errno at every call; else each call meets the next one in turn.
    """
    seam = Seam(calls=Calls)
    number = 0
    while True:
        at = place / str(number)
        case.stage(at)
        code, after = WAYS[(CASES.index(case) + first_way + number) % len(WAYS)]
        seam.arm(fail_at(number, code, after=after))
        try:
            case.act(at, seam, None)
            made = len(seam.names)
        except OSError:
            made = number + 1
        except LookupError:  # the ledger is not found: the caller goes on without it
            made = number + 1
        seam.disarm()
        first, second = known(at)
        assert second == RUNS, f"call {number}"
        assert first in (case.before, LOST, case.after), f"call {number}"
        if made <= number:
            break
        number += 1
    assert number > 3


def test_every_call_of_the_seam_has_a_case(place: Path) -> None:
    made: set[str] = set()
    for number, case in enumerate(CASES):
        seam = Seam(calls=Calls)
        case.stage(place / str(number))
        seam.arm(pass_on)
        case.act(place / str(number), seam, None)
        made |= set(seam.names)
    birth(place / "deeper" / "new", (seam := Seam(pass_on, calls=Calls)), None)
    assert made | set(seam.names) == NAMES
    assert set(WRITES) & NAMES == {"pwrite"}


def test_no_system_call_goes_past_the_seam() -> None:
    past = set()
    for path in Path(framework.engine.ledger.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and path.name != "calls.py":
                of = node.func.value
                if isinstance(of, ast.Name) and of.id in ("os", "fcntl", "mmap"):
                    past.add(node.func.attr)
                elif node.func.attr in ("unlink", "mkdir", "iterdir", "open") and "calls" not in ast.unparse(of):
                    past.add(ast.unparse(node.func))
    # A child's memory that no file stands behind; parents of a local directory that nobody has made yet.
    assert past == {"getpid", "geteuid", "mmap", "place.parent.mkdir"}
