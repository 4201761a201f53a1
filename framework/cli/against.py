"""The output of `worker check MODULE --against URL`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from framework.admin.compatibility import MOST_CAUSES, Group, Missing, groups, missing
from framework.admin.store import is_missing_at
from framework.cli.output import Column, counted, print_json, table, warn
from framework.cli.service import Service, opened_at
from framework.engine.port import shown
from framework.model.errors import UsageError

SAMPLES = 10_000
UNKNOWN = "-"

COLUMNS = (
    Column("queue", style="bold", fit="whole"),
    Column("fingerprint", fit="whole"),
    Column("version"),
    Column("jobs", number=True),
    Column("tried", number=True),
    Column("unreadable", number=True, style=lambda cell: "" if cell in ("0", UNKNOWN) else "bold red"),
    Column("why"),
)


def print_against(service: Service, url: str, samples: int, *, as_json: bool) -> int:
    """Print which payloads of a store the service could not read; return the exit code."""
    if url and is_missing_at(url):
        raise UsageError(f"--against={shown(url)!r}: there is no such directory: give the URL of the running service")
    with opened_at(url, service, runs=False, option="--against") as look:
        found, absent = groups(look.store, samples), missing(look.store)
    code = look.say()
    if as_json:
        print_json([*map(_group_object, found), *map(_missing_object, absent)])
    else:
        rows = [*map(_group_row, found), *map(_missing_row, absent)]
        table(COLUMNS, rows, empty="no jobs in the store")
    return int(_say(found, absent) or code > 0)


def _say(found: Sequence[Group], absent: Sequence[Missing]) -> bool:
    """Warn of what would go wrong; return whether anything would."""
    for one in found:
        if one.unreadable:
            made = f"version {one.version or 'unknown'}, fingerprint {one.fingerprint or 'unknown'}"
            tried = f"{one.unreadable:,} of {counted(one.tried, 'payload')}"
            rest = "" if one.tried == one.jobs else f" tried, of {counted(one.jobs, 'job')}"
            warn(f"queue {one.queue!r}: {tried}{rest} ({made}) cannot be read: {_causes(one)}")
    for queue in absent:
        if queue.dropped:
            jobs = counted(queue.stats.jobs, "job")
            warn(f"queue {queue.queue!r} has {jobs}, and this version of the service does not declare it any more")
    return any(one.unreadable for one in found) or any(queue.dropped for queue in absent)


def _causes(one: Group) -> str:
    most = one.causes.most_common(MOST_CAUSES)
    texts = [text if count == one.unreadable else f"{text} ({count:,})" for text, count in most]
    return ", ".join(texts) + (", ..." if len(one.causes) > len(most) else "")


def _group_row(one: Group) -> tuple[str, ...]:
    note = "this model's" if one.own else "upgraded" if one.upgraded else ""
    mark = f"{one.fingerprint or UNKNOWN}{f' ({note})' if note else ''}"
    counts = f"{one.jobs}", f"{one.tried}", f"{one.unreadable}"
    return one.queue, mark, one.version or UNKNOWN, *counts, _causes(one) or UNKNOWN


def _missing_row(one: Missing) -> tuple[str, ...]:
    by = f"declared by {', '.join(one.declared_by)}" if one.declared_by else "no service has declared it"
    return f"{one.queue} (not declared)", UNKNOWN, UNKNOWN, f"{one.stats.jobs}", UNKNOWN, UNKNOWN, by


def _group_object(one: Group) -> dict[str, Any]:
    return {
        "queue": one.queue,
        "declared": True,
        "fingerprint": one.fingerprint,
        "version": one.version,
        "own": one.own,
        "upgraded": one.upgraded,
        "jobs": one.jobs,
        "tried": one.tried,
        "unreadable": one.unreadable,
        "causes": [{"cause": text, "count": count} for text, count in one.causes.most_common(MOST_CAUSES)],
    }


def _missing_object(one: Missing) -> dict[str, Any]:
    bare = Group(one.queue, "", "", own=False, upgraded=False, jobs=one.stats.jobs)
    return _group_object(bare) | {"declared": False, "declared_by": list(one.declared_by)}
