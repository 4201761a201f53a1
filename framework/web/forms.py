"""The parts of a request: its query or form, and the filter of jobs in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl, quote, unquote, urlencode

from framework.admin.filters import REASONS, age_of, field_of
from framework.admin.jobs import STATES, Filter
from framework.engine.port import State
from framework.model.errors import UsageError

MOST_FIELDS = 500
BAD = "bad"  # stands for a uid where a form names a damaged file
FILTERS = ("queue", "state", "reason", "error", "older", "younger", "field")
Given = Mapping[str, Sequence[str]]


def parse(text: str) -> Given:
    """Return the values of each name of a query or a form. Raises UsageError: there are too many."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise UsageError(f"more than {MOST_FIELDS} fields") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def one(given: Given, name: str) -> str:
    """Return the last value of a name; empty: it is not given."""
    return given.get(name, [""])[-1]


def link(path: str, pairs: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """Return a path with the values that are not empty. Any text can stand in them: it is encoded."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    query = urlencode([(name, value) for name, value in items if value], errors="surrogateescape")
    return f"{path}?{query}" if query else path


def packed(*parts: str) -> str:
    """Return texts as one ASCII value of a form: browsers change line ends and control characters of others."""
    return " ".join(quote(part, safe="", errors="surrogateescape") for part in parts)


def unpacked(text: str, count: int) -> list[str]:
    """Return the texts of `packed`. Raises UsageError: there are not so many."""
    parts = [unquote(part, errors="surrogateescape") for part in text.split(" ")]
    if len(parts) != count:
        raise UsageError("the form is damaged: load the page again")
    return parts


def kept(given: Given) -> list[tuple[str, str]]:
    """Return the filters of a request, to be repeated in links and forms."""
    return [(name, value) for name in FILTERS for value in given.get(name, ()) if value]


def filter_of(given: Given, *, dead_letters: bool = False, hidden: Iterable[str] = ()) -> Filter:
    """Return the filter that a query or form says. Raises UsageError.

    Args:
        hidden: names of fields that cannot be searched, because what is not shown could be guessed so.
    """
    state, reason, queue = one(given, "state"), one(given, "reason"), one(given, "queue")
    if state and state not in STATES:
        raise UsageError(f"{state[:40]!r} is none of the states {', '.join(STATES)}")
    if reason and reason not in REASONS:
        raise UsageError(f"{reason[:40]!r} is none of the reasons {', '.join(REASONS)}")
    states: Sequence[State] = [found for found in STATES if found == state] or STATES
    home = queue if dead_letters else ""
    queues = [queue] if queue and not dead_letters else []
    ages = age_of(one(given, "older")), age_of(one(given, "younger"))
    fields = dict(_field(text, hidden) for text in given.get("field", ()) if text)
    return Filter(queues, states, home, dead_letters, reason, one(given, "error"), *ages, fields)


def _field(text: str, hidden: Iterable[str]) -> tuple[str, str]:
    path, value = field_of(text, "field")
    if is_hidden(path.split("."), hidden):
        raise UsageError(f"field {path[:60]!r} is hidden here, so it cannot be searched")
    return path, value


def is_hidden(path: Sequence[str], hidden: Iterable[str]) -> bool:
    """Return whether a place in a payload is hidden, or lies in one that is: by a name in any case, or by a path."""
    here = [part.lower() for part in path]
    for rule in hidden:
        parts = rule.lower().split(".")
        if parts == here[: len(parts)] or (len(parts) == 1 and parts[0] in here):
            return True
    return False
