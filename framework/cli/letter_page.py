"""The text that `worker dead show` prints for one dead letter."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from framework.cli.letters import details
from framework.cli.output import one_line, span, styled
from framework.engine.port import JobView
from framework.model.text.printable import escape

BOLD, DIM, RED = 1, 2, 31


def lines(view: JobView) -> Iterator[str]:
    """Yield the lines of the page. Foreign text is escaped, because it may contain anything."""
    letter = details(view)
    yield _styled(f"{one_line(view.job.id)}  dead letter of {one_line(letter['queue'])}", BOLD)
    for title, value in (
        ("reason", letter["reason"] or "unknown"),
        ("lies on", f"{letter['on']} ({letter['state']})"),
        ("since", letter["since"]),
        ("enqueued", letter["enqueued_at"]),
        ("attempts", str(letter["attempts"])),
        *((name, str(value)) for name, value in letter["extras"].items()),
        *((("ignored", ", ".join(letter["ignored"])),) if letter["ignored"] else ()),
        *((("unread", view.flaw),) if view.newer else ()),
    ):
        yield f"{title:<9} {one_line(value)}"
    yield f"payload   {letter['payload_bytes']:,} bytes"
    yield from _indented(_pretty(letter["payload"]))
    for failure in letter["failures"]:
        yield ""
        yield from _failure(failure)
    missing = letter["attempts"] - sum(failure["queue"] in ("", letter["queue"]) for failure in letter["failures"])
    if missing > 0:
        yield ""
        yield _styled(f"{missing} attempts are not shown: the first and the last ten are kept", DIM)


def _failure(failure: dict[str, Any]) -> Iterator[str]:
    took = f", took {span(took_)}" if (took_ := _duration(failure)) is not None else ""
    title = f"attempt {one_line(str(failure['attempt']))}" if failure["attempt"] else "no attempt"
    yield _styled(f"{title} on {one_line(failure['queue'])}  {failure['started_at']}{took}", BOLD)
    name, reason = one_line(failure["error_type"]), one_line(failure["reason"])
    error = f"{name}: " if name and name != reason else ""
    yield f"  {reason:<9} {_styled(error + one_line(failure['message']), RED)}"
    yield f"  trace     {one_line(failure['trace_id']) or 'not traced'}"
    yield from _indented(escape(failure["traceback"].rstrip("\n"), keep="\n"))


def _duration(failure: dict[str, Any]) -> float | None:
    from datetime import datetime

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
