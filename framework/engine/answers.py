"""Checks of what an engine returns. What does not fit the contract is said with engine and verb; the rest is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from operator import attrgetter
from typing import Any

from framework.engine.port import Engine, Rescued
from framework.model.errors import EngineUnavailable, WorkerError, answer
from framework.model.job import Job, Lease, RunRecord

_FIELDS: dict[str, Any] = {
    "job": Job,
    "queue": str,
    "attempt": int,
    "delivery": int,
    "eligible_at": (int, float),
    "previous": (type(None), RunRecord),
    "job.id": str,
    "job.uid": bytes,
    "job.queue": str,
    "job.payload": bytes,
    "job.headers": Mapping,
    "job.enqueued_at": (int, float),
    "job.history": Sequence,
}
_uid = attrgetter("job.uid")


class OddAnswer(EngineUnavailable):
    """An engine's verb has returned what the contract does not allow."""

    def __init__(self, engine: Engine, verb: str, what: str) -> None:
        super().__init__(f"{name_of(engine)}.{verb}() {what}")


@dataclass(slots=True)
class Sorted:
    """The answer of a claim, sorted by what can be done with it.

    Attributes:
        kept: leases to run.
        surplus: leases that were not asked for, to be released.
        flaws: what is wrong.
        unknown: the engine may hold jobs that it did not name.
    """

    kept: list[Lease] = field(default_factory=list)
    surplus: list[Lease] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)
    unknown: bool = False


def name_of(engine: Engine) -> str:
    """Return the class of an engine with its module, which is where its author looks."""
    kind = type(engine)
    return f"{kind.__module__}.{kind.__qualname__}"


def failure_of(engine: Engine, verb: str, error: Exception) -> str:
    """Return one line about a verb that has failed although it only looks at memory."""
    if isinstance(error, OddAnswer):
        return str(error)
    return f"{name_of(engine)}.{verb}() raises {error if isinstance(error, WorkerError) else answer(error)}"


def closing(engine: Engine, close: Callable[[], object] | None = None) -> str:
    """Close an engine by `close` or its own verb. Return one line about what that raises; empty: nothing."""
    try:
        (close or engine.close)()
    except Exception as error:
        return failure_of(engine, "close", error)
    return ""


def are_claimed(found: Any, limit: int, queues: Collection[str]) -> bool:
    """Return whether these are at most `limit` different leases of these queues. Quick, and raises nothing."""
    try:
        if not isinstance(found, (list, tuple, Sequence)) or (count := len(found)) > limit:
            return False
        for lease in found:
            job = lease.job
            usual = (
                type(lease) is Lease
                and lease.previous is None
                and type(lease.attempt) is int is type(lease.delivery)
                and type(lease.eligible_at) is float
                and type(job.payload) is bytes is type(job.uid)
                and type(job.headers) is dict
                and type(job.enqueued_at) is float
                and isinstance(job.id, str)
            )  # first, because the exact check takes five times as long
            if lease.queue not in queues or lease.attempt < 1 or (not usual and flaw_of(lease)):
                return False
        if count < 2 or len(set(map(_uid, found))) == count:
            return True
        return not any(_is_same(one, other) for one, other in combinations(found, 2))
    except Exception:
        return False


def flaw_of(lease: Any) -> str:
    """Return why a worker cannot use this as a lease; empty: it can."""
    if not isinstance(lease, Lease):
        return f"{_kind(lease)}, which is not a Lease"
    name = ""
    try:
        for name, kind in _FIELDS.items():
            value = attrgetter(name)(lease)
            if not isinstance(value, kind):
                return f"a Lease whose {name} is {_kind(value)}"
    except Exception as error:
        return f"a Lease whose {name} raises {type(error).__name__}: {error}"
    return "" if lease.attempt > 0 else f"a Lease whose attempt is {lease.attempt}"


def sort_out(found: Any, limit: int, queues: Collection[str]) -> Sorted:
    """Return what can be done with an answer of `claim` that `are_claimed` has refused."""
    made = Sorted()
    if not isinstance(found, Sequence):
        made.unknown = True
        made.flaws.append(f"returned {_kind(found)}, not a sequence of leases")
        return made
    known: list[Lease] = []
    try:
        for lease in found:
            if flaw := flaw_of(lease):
                made.unknown = True
                made.flaws.append(f"returned {flaw}")
            elif any(_is_same(lease, other) for other in known):
                made.flaws.append(f"returned job {lease.job.id!r} twice: it runs once")
            else:
                known.append(lease)
                fits = lease.queue in queues
                (made.kept if fits and len(made.kept) < limit else made.surplus).append(lease)
                if not fits:
                    made.flaws.append(f"returned job {lease.job.id!r} of {lease.queue!r}, which was not asked for")
    except Exception as error:
        made.unknown = True
        made.flaws.append(f"returned {_kind(found)} that raises {type(error).__name__}: {error}")
    total = len(made.kept) + len(made.surplus)
    if total > limit:
        made.flaws.append(f"returned {total} leases where it may return {limit}: the others are released")
    return made


def _is_same(one: Lease, other: Lease) -> bool:
    """Return whether two leases are one. A store may have two copies of a job, each of which has a lease."""
    return one is other or (one.job.uid == other.job.uid and bool(one.token == other.token))


def rescued_by(engine: Engine) -> tuple[list[Rescued], OddAnswer | None]:
    """Return what `rescue` returns that can be used, and the error for the rest. Raises what the verb raises."""
    found: Any = engine.rescue()
    if not isinstance(found, Sequence):
        return [], OddAnswer(engine, "rescue", f"returned {_kind(found)}, not a sequence")
    flaws = [_flaw_of_rescued(one) for one in found]
    good = [one for one, flaw in zip(found, flaws, strict=True) if not flaw]
    flaw = next(filter(None, flaws), "")
    return good, OddAnswer(engine, "rescue", f"returned {flaw}") if flaw else None


def _flaw_of_rescued(one: Any) -> str:
    if not isinstance(one, Rescued):
        return f"{_kind(one)}, which is not a Rescued"
    return flaw_of(one.lease) or ("" if isinstance(one.owner, str) else f"an owner that is {_kind(one.owner)}")


def pause_of(engine: Engine, seconds: float) -> float:
    """Call `maintain`; return the seconds until its next call. Raises OddAnswer, or what the verb raises."""
    found: float = checked(engine, "maintain", engine.maintain(seconds=seconds), (int, float))
    if math.isnan(found) or found < 0:
        raise OddAnswer(engine, "maintain", f"returned {found}, not the seconds until its next call")
    return found


def lost_of(engine: Engine, leases: Sequence[Lease]) -> list[Lease]:
    """Return those of the leases that `lost` names. Raises OddAnswer, or what the verb raises."""
    return _named(engine, "lost", leases, engine.lost(leases))


def cancelled_of(engine: Engine, leases: Sequence[Lease]) -> list[Lease]:
    """Return those of the leases that `cancelled` names; none where an engine is older than this verb.

    Raises OddAnswer, or what the verb raises.
    """
    verb = getattr(engine, "cancelled", None)
    return [] if verb is None else _named(engine, "cancelled", leases, verb(leases))


def _named(engine: Engine, verb: str, leases: Sequence[Lease], answered: object) -> list[Lease]:
    found = checked(engine, verb, answered, Sequence)
    named = {(one.job.uid, one.delivery) for one in found if isinstance(one, Lease)}
    if len(named) < len(found):
        raise OddAnswer(engine, verb, f"returned {len(found)} answers that name {len(named)} leases")
    return [lease for lease in leases if (lease.job.uid, lease.delivery) in named]


def checked(engine: Engine, verb: str, found: Any, kind: Any) -> Any:
    """Return what a verb has returned. Raises OddAnswer: it is not of this kind."""
    if isinstance(found, kind):
        return found
    wanted = "number" if isinstance(kind, tuple) else kind.__name__
    raise OddAnswer(engine, verb, f"returned {_kind(found)}, not a {wanted}")


def _kind(found: object) -> str:
    return "None" if found is None else f"an object of type {type(found).__qualname__}"
