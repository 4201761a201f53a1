"""The dead letters that commands list and act on: which there are, on which queue, and why they became dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from framework.cli.looks import Looks
from framework.cli.output import moment
from framework.cli.service import OpenedEngine, Service
from framework.engine.port import JobView, State
from framework.model.errors import EngineUnavailable, UsageError, WorkerError
from framework.model.job import Failure, Job
from framework.service.codec import parse_lenient

# On a dead-letter queue a dead letter waits for its handler or for a retry of it, is being handled, or is archived.
STATES: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")
Key = tuple[str, str, bytes]


def letters(service: Service, engine: OpenedEngine, looks: Looks, home: str | None = None) -> Iterator[JobView]:
    """Yield the dead letters, oldest first within each queue and state.

    Args:
        looks: collects errors of queues that cannot be read.
        home: name of their home queue, or of a dead-letter queue for all that it holds; None = all dead letters.
    """
    for queue in service.open_queues:
        for state in STATES if service.takes_letters(queue) else ("dead",):
            for view in looks.each(engine.browse(queue.name, state)):
                if (view.is_letter or view.newer) and home in (None, view.job.queue, view.queue):
                    yield view


def key_of(view: JobView) -> Key:
    """Return a key of a dead letter that differs from the key of a later one with the same id."""
    return view.queue, view.job.id, view.job.uid


def chosen(
    service: Service, engine: OpenedEngine, looks: Looks, ids: Iterable[str], home: str | None
) -> dict[Key, JobView]:
    """Return the dead letters with these ids. Raises WorkerError: one is missing; UsageError: two have the same id."""
    wanted = dict.fromkeys(ids)
    found: dict[Key, JobView] = {}
    for view in letters(service, engine, looks, home):
        if view.job.id in wanted:
            other = next((seen for seen in found.values() if seen.job.id == view.job.id), None)
            if other is not None and other.job.uid != view.job.uid:
                raise UsageError(
                    f"{view.job.id} is a dead letter of {other.job.queue} and of {view.job.queue}: choose with --queue"
                )
            found[key_of(view)] = view
    there = {view.job.id for view in found.values()}
    missing = [job_id for job_id in wanted if job_id not in there]
    if missing:
        looks.say()
        where = f" of {home}" if home else ""
        more = f" (nor {len(missing) - 1} more of those given)" if len(missing) > 1 else ""
        raise WorkerError(f"there is no dead letter {missing[0][:100]!r}{where}{more}: see `worker dead list`")
    return found


def act(
    found: Iterable[JobView], keys: Iterable[Key], verb: Callable[[JobView], bool]
) -> tuple[int, list[tuple[JobView, str]]]:
    """Replay or discard each dead letter whose key is given. Return how many, and the others, each with the reason.

    Each is handled once: if a job becomes a dead letter again meanwhile, it appears again, and is left alone.
    """
    meant = set(keys)
    done, left = 0, []
    for view in found:
        if key_of(view) not in meant:
            continue
        meant.discard(key_of(view))
        why = _tried(view, verb)
        if why:
            left.append((view, why))
        done += not why
    return done, left


def _tried(view: JobView, verb: Callable[[JobView], bool]) -> str:
    if view.state == "in_flight":
        return "is being handled right now: try again"
    if view.newer:
        return f"stays: {view.flaw}: use that version's command"
    try:
        return "" if verb(view) else "is no longer there"
    except EngineUnavailable as error:  # for this one only: the others may succeed
        return stays(error)


def stays(error: EngineUnavailable) -> str:
    """Return why something was not moved or deleted; a command does not try again."""
    return f"stays: {str(error).removesuffix(': tried again')}"


def death_of(job: Job) -> Failure | None:
    """Return the failure that made the job a dead letter: the last on its home queue.

    Failures of a dead letter's handler come after it.
    """
    return next((failure for failure in reversed(job.history) if failure.queue in ("", job.queue)), None)


def summary(view: JobView) -> dict[str, Any]:
    """Return what a list prints of a dead letter; the help text promises these keys."""
    death = death_of(view.job)
    return {
        "id": view.job.id,
        "queue": view.job.queue,
        "on": view.queue,
        "state": view.state,
        "since": moment(view.since),
        "reason": death.reason if death else None,
        "attempts": death.attempt if death else 0,
        "error_type": death.error_type if death else "",
        "message": death.message if death else view.flaw,
    }


def details(view: JobView) -> dict[str, Any]:
    """Return all that `worker dead show --json` prints of a dead letter."""
    return summary(view) | {
        "enqueued_at": moment(view.job.enqueued_at),
        "payload": parse_lenient(view.job.payload),
        "payload_bytes": len(view.job.payload),
        "headers": dict(view.job.headers),
        "failures": [_failure(failure) for failure in view.job.history],
        "extras": view.job.extras.other | view.job.extras.said(),
        "ignored": list(view.job.extras.ignored),
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "attempt": failure.attempt,
        "queue": failure.queue,
        "delivery": failure.delivery,
        "started_at": moment(failure.started_at),
        "ended_at": moment(failure.ended_at),
        "reason": failure.reason,
        "error_type": failure.error_type,
        "message": failure.message,
        "trace_id": failure.trace_id,
        "span_id": failure.span_id,
        "traceback": failure.traceback,
    }
