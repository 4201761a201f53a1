"""The optional fields of a job. A job without any of them costs nothing more.

Engines store `Extras.text`, one JSON object with the values that differ from the defaults, and read it with `unpack`.
FIELDS alone defines which fields exist and which values they may have.

Several versions may use one store, so reading never fails. A field that only a newer version knows is kept in `other`.
A value that its field cannot have is left out and named in `ignored`: the job runs as if it had not been set. `text`
stays as it was read, so nothing is lost when a job is written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from functools import lru_cache
from typing import Any, NamedTuple

from framework.model.frozen import frozen
from framework.model.retry import LONGEST, RetryPolicy

MOST_URGENT, USUAL, LEAST_URGENT = 0, 5, 9  # priorities
LONGEST_KEY = 255  # characters
MOST_SAVED = 4096  # characters of a checkpoint
# Seconds since the epoch of the first and the last moment that a datetime can show: years 1 and 9999.
EARLIEST, LATEST = -62_135_596_800.0, 253_402_300_799.0
_MOST_NUMBERS = 20  # in one record
_POLICY = RetryPolicy()
_CACHED = 1000  # characters; jobs of one producer mostly have the same text

_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
_DECODE = json.JSONDecoder().raw_decode
# In an object without others inside; a quote within a text has a backslash before it.
_GROUP = re.compile(r',"group":"([^"\\]{1,255})"|(?<={)"group":"([^"\\]{1,255})",?', re.ASCII)
_WHOLE = "extras"  # in `ignored`: the stored text is not a JSON object


@frozen
class Extras:
    """The optional part of a job's record. Raises ValueError for a value that its field cannot have.

    Attributes:
        priority: 0 to 9; jobs with a lower number are claimed first, 5 is usual.
        unique_key: while the job holds this key, another job of its queue with the key is not stored.
        unique_scope: how long it holds it: "started", "done", or seconds from the enqueue as text; see `window`.
        group: key of the jobs that share a limit.
        schedule: key of the schedule that made the job. tick: the scheduled moment, seconds since the epoch.
        timeout: seconds for each of its attempts. retry: numbers of its retry policy, by name.
        fingerprint: a hash of the JSON schema of the payload type. version: the version of the enqueueing service.
        saved: the checkpoint that an attempt of the job has saved last, as JSON.
        fan_in: of which fan-in the job is a member, and its number there. ended: of a follow-up: how many members ended
            in which way; see `framework/model/fan_in.py`.
        other: fields that this version does not know.
        ignored: names of fields whose stored values were ignored.
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
    saved: str | None = None
    fan_in: str | None = None
    ended: Mapping[str, int] | None = None
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
    def window(self) -> float | None:
        """Return for how many seconds from the enqueue the job holds its unique key; None: as long as it is alive."""
        try:
            found = float(self.unique_scope or "")
        except ValueError:
            return None
        return found if 0 < found <= LONGEST else None

    @property
    def text(self) -> str:
        """Return the text that an engine stores, in ASCII; empty if all fields have their defaults. Made once.

        Raises ValueError.
        """
        if not self._text:
            said = {**self.other, **self.said()}
            try:
                object.__setattr__(self, "_text", _ENCODE(said) if said else "")
            except (TypeError, RecursionError) as error:
                raise ValueError(f"other: {error!r:.100}") from None
        return self._text


class May(NamedTuple):
    """The rule for the values of a field.

    Attributes:
        check: returns whether a value of any type is allowed. be: the rule in words, for messages.
    """

    check: Callable[[Any], bool]
    be: str


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # excludes NaN, and bool, which is an int


def _is_retry(value: Any) -> bool:
    """Return whether the value is a dict of a few names and their numbers, of which those of a policy are valid."""
    if type(value) is not dict or len(value) > _MOST_NUMBERS:
        return False
    for name, number in value.items():
        if not (_is_text(name, 100) and (type(number) is bool or _is_number(number, -LONGEST, LONGEST))):
            return False
    try:
        _POLICY.changed(value)
    except ValueError:
        return False
    return True


def _is_text(value: Any, most: int) -> bool:
    """Return whether the value is text of 1 to `most` characters without lone surrogates, which UTF-8 cannot encode."""
    if type(value) is not str or not 0 < len(value) <= most:
        return False
    return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)


def _is_json(value: Any) -> bool:
    """Return whether the value is a text of JSON, as `with_saved` stores it."""
    try:
        return _is_text(value, MOST_SAVED) and _DECODE(value)[1] == len(value)
    except (ValueError, RecursionError):
        return False


def _are_counts(value: Any) -> bool:
    """Return whether the value is a dict of a few names and how many."""
    if type(value) is not dict or len(value) > _MOST_NUMBERS:
        return False
    return all(_is_text(name, 100) and type(one) is int and 0 <= one < 10**12 for name, one in value.items())


_MEMBER = re.compile(r"[0-9a-f]{32}/[0-9]{1,9}").fullmatch
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
    "retry": May(_is_retry, f"at most {_MOST_NUMBERS} numbers of a retry policy, each at most {LONGEST:g}"),
    "fingerprint": _WORD,
    "version": _WORD,
    "saved": May(_is_json, f"JSON of 1 to {MOST_SAVED} characters"),
    "fan_in": May(lambda value: type(value) is str and _MEMBER(value) is not None, "an id of 32 hex digits/a number"),
    "ended": May(_are_counts, f"at most {_MOST_NUMBERS} counts by name"),
}
_DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in fields(Extras)}

NONE = Extras()


def with_saved(extras: Extras, state: str) -> Extras:
    """Return extras with another checkpoint; `null` stands for none. All other stored fields stay as they are."""
    said = {} if _WHOLE in extras.ignored else json.loads(extras.text or "{}")
    said.pop("saved", None)
    if state != "null":
        said["saved"] = state
    return unpack(_ENCODE(said)) if said else NONE


def unpack(text: str) -> Extras:
    """Return the extras of any stored text; see the module. Jobs with the same text share one result."""
    if len(text) > _CACHED:
        return _unpack(text)
    if '"group":"' not in text or text.count("{") != 1 or (match := _GROUP.search(text)) is None:
        return _cached(text)
    # Jobs of one producer mostly differ in their group alone, and the rest is parsed once.
    rest = _cached(text[: match.start()] + text[match.end() :])
    if rest.ignored:
        return _cached(text)
    found = Extras.__new__(Extras)
    for name in _DEFAULTS:
        setattr(found, name, getattr(rest, name))
    object.__setattr__(found, "group", match[1] or match[2])
    object.__setattr__(found, "_text", text)
    return found


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
