"""The output of commands for a job: the keys of a list, all of its details, and a page for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from framework.admin.jobs import last_failure
from framework.cli.output import is_terminal, moment, one_line, print_json, styled
from framework.engine.port import JobView
from framework.model.job import Failure
from framework.model.text.printable import escape
from framework.model.text.spans import span
from framework.service.codec import parse_lenient

BOLD, DIM, RED = 1, 2, 31
WIDTH = 11  # of a title: `fingerprint` and `worker_lost` fit
FAILURE = (
    "attempt", "queue", "delivery", "started_at", "ended_at", "reason", "error_type", "message", "trace_id", "span_id",
    "traceback",
)  # fmt: skip


def summary(view: JobView) -> dict[str, Any]:
    """Return what a list prints of a job; the help texts promise these keys."""
    job, death = view.job, last_failure(view)
    return {
        "id": job.id,
        "queue": job.queue,
        "on": view.queue,
        "state": view.state,
        "since": moment(view.since),
        "reason": death.reason if death else None,
        "attempts": death.attempt if death and view.is_dead_letter else view.attempt,
        "error_type": death.error_type if death else "",
        "message": death.message if death else view.flaw,
    }


def row(view: JobView) -> tuple[str, ...]:
    """Return the cells of a job in a list."""
    found = summary(view)
    since = f"{span(max(0.0, time.time() - view.since))} ago" if is_terminal(sys.stdout) else found["since"]
    error = ": ".join(filter(None, (found["error_type"], found["message"])))
    reason, attempts = found["reason"] or "-", str(found["attempts"])
    return (found["id"], found["queue"], found["on"], found["state"], since, reason, attempts, error)


def details(view: JobView) -> dict[str, Any]:
    """Return all that `show --json` prints of a job."""
    due = view.job.not_before if view.due is None else view.due
    return summary(view) | {
        "enqueued_at": moment(view.job.enqueued_at),
        "payload": parse_lenient(view.job.payload),
        "payload_bytes": len(view.job.payload),
        "headers": dict(view.job.headers),
        "failures": [_failure(failure) for failure in view.job.history],
        "extras": view.job.extras.other | view.job.extras.said(),
        "ignored": list(view.job.extras.ignored),
        "due": None if due is None else moment(due),
        "ttl": view.job.ttl,
        "chosen_id": view.job.chosen_id,
    }


def _failure(failure: Failure) -> dict[str, Any]:
    at = {"started_at": moment(failure.started_at), "ended_at": moment(failure.ended_at)}
    return {name: at[name] if name in at else getattr(failure, name) for name in FAILURE}


def print_job(view: JobView, *, as_json: bool) -> None:
    """Print all that is known of a job."""
    if as_json:
        print_json(details(view))
        return
    for line in lines(view):
        print(line)


def _styled(text: str, code: int) -> str:
    return styled(text, code, sys.stdout)


def lines(view: JobView, paint: Callable[[str, int], str] = _styled) -> Iterator[str]:
    """Yield the lines of the page. Foreign text is escaped, because it may contain anything.

    Args:
        paint: returns a text in a style of the terminal.
    """
    found = details(view)
    what = "dead letter of" if view.is_dead_letter else "job of"
    yield paint(f"{one_line(view.job.id)}  {what} {one_line(found['queue'])}", BOLD)
    for title, value in (
        *((("reason", found["reason"] or "unknown"),) if view.is_dead_letter else ()),
        ("lies on", f"{found['on']} ({found['state']})"),
        ("since", found["since"]),
        ("enqueued", found["enqueued_at"]),
        ("attempts", str(found["attempts"])),
        *((("due", found["due"]),) if found["due"] else ()),
        *((("ttl", span(found["ttl"])),) if found["ttl"] is not None else ()),
        *((name, _words(value)) for name, value in found["extras"].items()),
        *((("ignored", ", ".join(found["ignored"])),) if found["ignored"] else ()),
        *((("holds", held),) if (held := _held(view)) else ()),
        *((("unread", view.flaw),) if view.newer else ()),
    ):
        yield f"{title:<{WIDTH}} {one_line(value)}"
    if found["headers"]:
        yield "headers"
        yield from (f"    {one_line(f'{name}: {text}')}" for name, text in found["headers"].items())
    yield f"{'payload':<{WIDTH}} {found['payload_bytes']:,} bytes"
    yield from _indented(_pretty(found["payload"]))
    for failure in found["failures"]:
        yield ""
        yield from _attempt(failure, paint)
    missing = found["attempts"] * view.is_dead_letter - sum(
        failure["queue"] in ("", found["queue"]) for failure in found["failures"]
    )
    if missing > 0:
        yield ""
        yield paint(f"{missing} attempts are not shown: the first and the last ten are kept", DIM)


def _attempt(failure: dict[str, Any], paint: Callable[[str, int], str]) -> Iterator[str]:
    took = f", took {span(took_)}" if (took_ := _duration(failure)) is not None else ""
    title = f"attempt {one_line(str(failure['attempt']))}" if failure["attempt"] else "no attempt"
    yield paint(f"{title} on {one_line(failure['queue'])}  {failure['started_at']}{took}", BOLD)
    name, reason = one_line(failure["error_type"]), one_line(failure["reason"])
    error = f"{name}: " if name and name != reason else ""
    yield f"  {reason:<{WIDTH}} {paint(error + one_line(failure['message']), RED)}"
    yield f"  {'trace':<{WIDTH}} {one_line(failure['trace_id']) or 'not traced'}"
    yield from _indented(escape(failure["traceback"].rstrip("\n"), keep="\n"))


def _held(view: JobView) -> str:
    """Return what a dead letter says of its chosen id and its unique key; empty: there is neither, or it is none."""
    if not view.is_dead_letter:
        return ""
    keeps = "its id, which enqueues nothing while it is here" if view.job.chosen_id else ""
    without = "no unique key: another job may have it" if view.job.extras.unique_key is not None else ""
    return "; ".join(filter(None, (keeps, without)))


def _duration(failure: dict[str, Any]) -> float | None:
    if not failure["started_at"] or not failure["ended_at"]:
        return None
    ended, started = (datetime.fromisoformat(failure[name]) for name in ("ended_at", "started_at"))
    return max(0.0, (ended - started).total_seconds())


def _words(value: Any) -> str:
    """Return a stored value as people write it: `max_retries 1, jitter True`, and no Python."""
    return ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)


def _pretty(payload: Any) -> str:
    try:
        text = json.dumps(payload, indent=2, ensure_ascii=False)
    except RecursionError:
        text = str(payload)[:10_000]
    return escape(payload if isinstance(payload, str) else text, keep="\n")


def _indented(text: str) -> Iterator[str]:
    if text:
        yield from (f"    {line}" for line in text.split("\n"))
