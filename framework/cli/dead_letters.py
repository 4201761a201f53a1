"""The dead letters that commands list and act on: where they lie, why they became dead letters, and a page of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from framework.cli.output import moment, one_line, span, styled
from framework.cli.service import Look
from framework.engine.port import JobView, State
from framework.model.errors import UsageError, WorkerError
from framework.model.job import Failure
from framework.model.text.printable import escape
from framework.service.codec import parse_lenient
from framework.service.queues import DeadLetter

BOLD, DIM, RED = 1, 2, 31
# On a dead-letter queue a dead letter waits for its handler or for a retry of it, is being handled, or is archived.
STATES: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")
Key = tuple[str, str, bytes]
FAILURE = (
    "attempt", "queue", "delivery", "started_at", "ended_at", "reason", "error_type", "message", "trace_id", "span_id",
    "traceback",
)  # fmt: skip


def dead_letters(look: Look, home: str | None = None) -> Iterator[JobView]:
    """Yield the dead letters, oldest first within each queue and state.

    Args:
        home: name of their home queue, or of a dead-letter queue for all that it holds; None = all dead letters.
    """
    for queue in look.queues:
        for state in STATES if queue.payload_type is DeadLetter else ("dead",):
            for view in look.each(look.engine.browse(queue.name, state)):
                if (view.is_letter or view.newer) and home in (None, view.job.queue, view.queue):
                    yield view


def key_of(view: JobView) -> Key:
    """Return a key of a dead letter that differs from the key of a later one with the same id."""
    return view.queue, view.job.id, view.job.uid


def chosen(look: Look, ids: Iterable[str], home: str | None) -> dict[Key, JobView]:
    """Return the dead letters with these ids. Raises WorkerError: one is missing; UsageError: two have the same id."""
    wanted = dict.fromkeys(ids)
    found: dict[Key, JobView] = {}
    for view in dead_letters(look, home):
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
        look.say()
        where = f" of {home}" if home else ""
        more = f" (nor {len(missing) - 1} more of those given)" if len(missing) > 1 else ""
        raise WorkerError(f"there is no dead letter {missing[0][:100]!r}{where}{more}: see `worker dead list`")
    return found


def meant(look: Look, keys: Iterable[Key]) -> Iterator[JobView]:
    """Yield the dead letters with these keys, each once.

    If a job becomes a dead letter again meanwhile, it appears again, and is left alone.
    """
    left = set(keys)
    for view in dead_letters(look):
        if key_of(view) in left:
            left.discard(key_of(view))
            yield view


def tried(view: JobView, verb: Callable[[JobView], bool]) -> str:
    """Replay or discard a dead letter. Return why it stays; empty: it is done."""
    if view.state == "in_flight":
        return "is being handled right now: try again"
    if view.newer:
        return f"stays: {view.flaw}: use that version's command"
    return "" if verb(view) else "is no longer there"


def summary(view: JobView) -> dict[str, Any]:
    """Return what a list prints of a dead letter; the help text promises these keys."""
    job = view.job
    # The failure that made the job a dead letter: the last on its home queue; its handler's failures come after it.
    death = next((failure for failure in reversed(job.history) if failure.queue in ("", job.queue)), None)
    return {
        "id": job.id,
        "queue": job.queue,
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
    at = {"started_at": moment(failure.started_at), "ended_at": moment(failure.ended_at)}
    return {name: at[name] if name in at else getattr(failure, name) for name in FAILURE}


def lines(view: JobView) -> Iterator[str]:
    """Yield the lines of the page. Foreign text is escaped, because it may contain anything."""
    found = details(view)
    yield _styled(f"{one_line(view.job.id)}  dead letter of {one_line(found['queue'])}", BOLD)
    for title, value in (
        ("reason", found["reason"] or "unknown"),
        ("lies on", f"{found['on']} ({found['state']})"),
        ("since", found["since"]),
        ("enqueued", found["enqueued_at"]),
        ("attempts", str(found["attempts"])),
        *((name, str(value)) for name, value in found["extras"].items()),
        *((("ignored", ", ".join(found["ignored"])),) if found["ignored"] else ()),
        *((("unread", view.flaw),) if view.newer else ()),
    ):
        yield f"{title:<9} {one_line(value)}"
    yield f"payload   {found['payload_bytes']:,} bytes"
    yield from _indented(_pretty(found["payload"]))
    for failure in found["failures"]:
        yield ""
        yield from _attempt(failure)
    missing = found["attempts"] - sum(failure["queue"] in ("", found["queue"]) for failure in found["failures"])
    if missing > 0:
        yield ""
        yield _styled(f"{missing} attempts are not shown: the first and the last ten are kept", DIM)


def _attempt(failure: dict[str, Any]) -> Iterator[str]:
    took = f", took {span(took_)}" if (took_ := _duration(failure)) is not None else ""
    title = f"attempt {one_line(str(failure['attempt']))}" if failure["attempt"] else "no attempt"
    yield _styled(f"{title} on {one_line(failure['queue'])}  {failure['started_at']}{took}", BOLD)
    name, reason = one_line(failure["error_type"]), one_line(failure["reason"])
    error = f"{name}: " if name and name != reason else ""
    yield f"  {reason:<9} {_styled(error + one_line(failure['message']), RED)}"
    yield f"  trace     {one_line(failure['trace_id']) or 'not traced'}"
    yield from _indented(escape(failure["traceback"].rstrip("\n"), keep="\n"))


def _duration(failure: dict[str, Any]) -> float | None:
    if not failure["started_at"] or not failure["ended_at"]:
        return None
    ended, started = (datetime.fromisoformat(failure[name]) for name in ("ended_at", "started_at"))
    return max(0.0, (ended - started).total_seconds())


def _pretty(payload: Any) -> str:
    try:
        text = json.dumps(payload, indent=2, ensure_ascii=False)
    except RecursionError:
        text = str(payload)[:10_000]
    return escape(payload if isinstance(payload, str) else text, keep="\n")


def _indented(text: str) -> Iterator[str]:
    if text:
        yield from (f"    {line}" for line in text.split("\n"))


def _styled(text: str, code: int) -> str:
    return styled(text, code, sys.stdout)
