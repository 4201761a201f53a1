"""What a job may carry beyond what every job has. All of it is optional, and a job that has none of it pays nothing.

Engines store `Extras.text`, one JSON object with what differs from the defaults, and read it with `unpack`. FIELDS is
the one place that says which fields there are and what may stand in them.

Versions meet in a store, so reading never fails. A field that this version does not know, of a newer one, is kept in
`other`. A value that its field cannot have is left out and named in `ignored`: the job runs as if nothing had been
said. `text` stays as it was read, whatever it holds, so nothing gets lost where a job is written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from functools import lru_cache
from typing import Any, NamedTuple

from framework.model.frozen import frozen
from framework.model.retry import LONGEST

MOST_URGENT, USUAL, LEAST_URGENT = 0, 5, 9  # priorities
LONGEST_KEY = 255  # characters
# Seconds since the epoch of the first and the last moment that a datetime can show: years 1 and 9999.
EARLIEST, LATEST = -62_135_596_800.0, 253_402_300_799.0
_MOST_NUMBERS = 20  # in one record
_CACHED = 1000  # characters; jobs of one producer mostly say the same

_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
_DECODE = json.JSONDecoder().raw_decode
_WHOLE = "extras"  # in `ignored`: what is stored is no JSON object at all


@frozen
class Extras:
    """The optional part of a job's record. Raises ValueError: a value that its field cannot have.

    Attributes:
        priority: 0 to 9; jobs of a lower one are claimed first, 5 is usual.
        unique_key, unique_scope: what makes it unique, and within what; they are stored, and mean nothing yet.
        group: key of the jobs that share a limit.
        schedule: key of the schedule that made it. tick: the moment that was meant, seconds since the epoch.
        timeout: seconds for each of its attempts. retry: numbers of its retry policy, by their names.
        fingerprint: of the JSON schema of its payload's type. version: of the service that enqueued it.
        other: fields that this version does not know.
        ignored: fields whose stored values were ignored.
    """

    priority: int = USUAL
    unique_key: str | None = None
    unique_scope: str | None = None
    group: str | None = None
    schedule: str | None = None
    tick: float | None = None
    timeout: float | None = None
    retry: Mapping[str, float] | None = None
    fingerprint: str | None = None
    version: str | None = None
    other: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = field(default=(), compare=False)
    _text: str = field(default="", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in self.said().items():
            may = FIELDS[name]
            if not may.check(value):
                raise ValueError(f"{name}={value!r:.60}: must be {may.be}")

    def said(self) -> dict[str, Any]:
        """Return the fields of FIELDS that differ from their defaults."""
        found = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in found.items() if value is not _DEFAULTS[name]}

    @property
    def text(self) -> str:
        """What an engine stores, in ASCII; empty where there is nothing. Made once. Raises ValueError."""
        if not self._text:
            said = {**self.other, **self.said()}
            try:
                object.__setattr__(self, "_text", _ENCODE(said) if said else "")
            except (TypeError, RecursionError) as error:
                raise ValueError(f"other: {error!r:.100}") from None
        return self._text


class May(NamedTuple):
    """What may stand in a field.

    Attributes:
        check: returns whether a value may, whatever it is. be: the same in words.
    """

    check: Callable[[Any], bool]
    be: str


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # not NaN, and a bool is an int, but no number


def _is_record(value: Any) -> bool:
    """Return whether it maps a few names to numbers."""
    if type(value) is not dict or len(value) > _MOST_NUMBERS:
        return False
    return all(
        _is_text(name, 100) and (type(number) is bool or _is_number(number, -LONGEST, LONGEST))
        for name, number in value.items()
    )


def _is_text(value: Any, most: int) -> bool:
    """Return whether it is text that can be written anywhere: lone surrogates cannot."""
    if type(value) is not str or not 0 < len(value) <= most:
        return False
    return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)


_KEY = May(lambda value: _is_text(value, LONGEST_KEY), f"text of 1 to {LONGEST_KEY} characters")
_WORD = May(lambda value: _is_text(value, 100), "text of 1 to 100 characters")

FIELDS: Mapping[str, May] = {
    "priority": May(
        lambda value: type(value) is int and MOST_URGENT <= value <= LEAST_URGENT,
        f"a whole number from {MOST_URGENT} to {LEAST_URGENT}",
    ),
    "unique_key": _KEY,
    "unique_scope": _WORD,
    "group": _KEY,
    "schedule": _KEY,
    "tick": May(lambda value: _is_number(value, EARLIEST, LATEST), "seconds since the epoch"),
    "timeout": May(lambda value: _is_number(value, 0, LONGEST) and value > 0, f"more than 0 and at most {LONGEST:g} s"),
    "retry": May(_is_record, f"a dict of at most {_MOST_NUMBERS} names and their numbers"),
    "fingerprint": _WORD,
    "version": _WORD,
}
_DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in fields(Extras)}

NONE = Extras()


def unpack(text: str) -> Extras:
    """Return what a stored text says, whatever it is: see the module. Jobs with one text share the answer."""
    return _cached(text) if len(text) <= _CACHED else _unpack(text)


def _unpack(text: str) -> Extras:
    try:
        said, _ = _DECODE(text)
    except (ValueError, RecursionError):
        said = None
    if type(said) is not dict:
        found = Extras(ignored=(_WHOLE,))
    else:
        good = {name: value for name, value in said.items() if name in FIELDS and FIELDS[name].check(value)}
        other = {name: value for name, value in said.items() if name not in FIELDS}
        wrong = tuple(name for name in said if name in FIELDS and name not in good)
        found = Extras(**good, other=other, ignored=wrong)
    object.__setattr__(found, "_text", text)
    return found


_cached = lru_cache(maxsize=256)(_unpack)
