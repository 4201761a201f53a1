"""The comparison of a payload with its copy that was encoded and read back: would the handler get the same value?

`==` alone cannot tell: for pydantic models it compares private attributes, too, and for dataclasses it ignores fields
with `compare=False`. So containers, models and dataclasses are compared part by part, and other values by `==`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import NoneType
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

PLAIN = frozenset({str, int, float, bool, NoneType, bytes, Decimal, UUID, date, timedelta})
_SEQUENCES = (list, tuple, deque)
_SECRETS = (SecretStr, SecretBytes, Secret)
_MOST_PAIRS = 100  # elements of a set that are compared in pairs
_MISSING = object()


class Difference:
    """A part of the payload that comes back different.

    Attributes:
        path: from the part up to the payload: names of fields, indices, and `*` for the key of a mapping.
        what: how the part differs, without values.
    """

    def __init__(self, what: str) -> None:
        self.path: list[str] = []
        self.what = what

    def below(self, part: str) -> Difference:
        """Return this difference with the name of the part that contains it added to its path."""
        self.path.append(part)
        return self

    def __str__(self) -> str:
        return f"{'.'.join(reversed(self.path)) or 'payload'}: {self.what}"


class Doubt(Difference):
    """A part of the payload that may come back different: no comparison can tell, or only its type changes."""


Found = Difference | None


def difference(given: Any, got: Any) -> Found:
    """Return the first difference, else the first doubt; None if both are equal. Never raises."""
    try:
        return compare(given, got)
    except RecursionError:
        return None if given == got else Doubt("is nested too deep to compare")
    except Exception as error:  # from `==` of a class of the service
        return Doubt(f"{type(error).__name__} in a comparison")


def compare(given: Any, got: Any) -> Found:
    """Return what `difference` returns, but let errors from `==` of the service's classes through."""
    if given is got:
        return None
    kind: Any = type(given)
    if kind in PLAIN:
        return None if given == got else _plain(given, got)
    return _way(kind)(given, got)


@lru_cache(maxsize=1024)
def _way(kind: type) -> Callable[[Any, Any], Found]:
    if dataclasses.is_dataclass(kind):
        return _dataclasses
    for bases, way in _WAYS:
        if issubclass(kind, bases):
            return way
    return _others


def _models(given: BaseModel, got: Any) -> Found:
    kind = type(given)
    if kind is not type(got) and _generic(kind) is not _generic(type(got)):
        return _other_type(given, got)
    # The loop of `_parts`, written out for speed: nearly every payload is a model.
    mine, theirs, doubt = given.__dict__, got.__dict__, None
    for name in kind.__pydantic_fields__:
        one, other = mine.get(name, _MISSING), theirs.get(name, _MISSING)
        if one is other or (type(one) in PLAIN and one == other):
            continue
        found = _field(given, name, compare(one, other))
        if type(found) is Difference:
            return found
        doubt = doubt or found
    if given.__pydantic_extra__:
        doubt = _mappings(given.__pydantic_extra__, got.__pydantic_extra__) or doubt
    if given.__pydantic_private__ and type(doubt) is not Difference:
        doubt = doubt or _private(given.__pydantic_private__, got.__pydantic_private__)
    return doubt


def _field(given: BaseModel, name: str, found: Found) -> Found:
    """Return the difference of a field, with its name, or None if the field does not count."""
    if found is None:
        return None
    if type(given).__pydantic_fields__[name].exclude:
        if name not in given.__pydantic_fields_set__:
            return None  # a default, which each process makes anew
        found = Difference("has a value, but Field(exclude=True) keeps it out of what is stored")
    return found if name == "root" else found.below(name)


def _generic(kind: type) -> Any:
    """Return the generic model of a parametrised one; for pydantic, too, `Box[int](v=1)` and `Box(v=1)` are equal."""
    return getattr(kind, "__pydantic_generic_metadata__", {}).get("origin") or kind


def _private(given: Mapping[str, Any], got: Mapping[str, Any] | None) -> Found:
    """Compare private attributes. They are not part of a payload, so a difference is only a doubt."""
    for name, value in given.items():
        if type(compare(value, (got or {}).get(name, _MISSING))) is Difference:
            return Doubt("a private attribute is not stored, the handler gets its default").below(name)
    return None


def _dataclasses(given: Any, got: Any) -> Found:
    if type(given) is not type(got):
        return _other_type(given, got)
    kind: Any = type(given)
    names = _field_names(kind)
    if getattr(kind, "__pydantic_config__", {}).get("extra") == "allow":
        names = tuple({**dict.fromkeys(names), **vars(given), **vars(got)})
    return _parts((name, getattr(given, name, _MISSING), getattr(got, name, _MISSING)) for name in names)


@lru_cache(maxsize=1024)
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _sequences(given: Any, got: Any) -> Found:
    named = getattr(given, "_fields", None)
    if not isinstance(got, _SEQUENCES) or (named and type(given) is not type(got)):
        return _other_type(given, got)
    if len(given) != len(got):
        return Difference("comes back with another length")
    if PLAIN.issuperset(map(type, given)) and given == got:
        return None
    found = _parts(zip(named or map(str, range(len(given))), given, got, strict=False))
    if found is None and given and not isinstance(given, _family(got)):
        return Doubt(_change(given, got))  # where any sequence is allowed, a tuple is read back as a list
    return found


def _family(value: Any) -> type:
    return next(base for base in _SEQUENCES if isinstance(value, base))


def _mappings(given: Mapping[Any, Any], got: Any) -> Found:
    if not isinstance(got, Mapping):
        return _other_type(given, got)
    if PLAIN.issuperset(map(type, given)) and PLAIN.issuperset(map(type, given.values())) and given == got:
        return None
    if len(given) != len(got):
        return Difference("comes back with other keys")
    if given.keys() == got.keys():
        return _parts(("*", value, got[key]) for key, value in given.items())
    if any(type(compare(*keys)) is Difference for keys in zip(given, got, strict=True)):  # JSON keeps the order
        return Difference("comes back with other keys")
    return _parts(("*", *values) for values in zip(given.values(), got.values(), strict=True))


def _sets(given: Set[Any], got: Any) -> Found:
    if not isinstance(got, Set):
        return _other_type(given, got)
    if given == got:
        return None
    left, right = [item for item in given if item not in got], [item for item in got if item not in given]
    if len(left) != len(right) or len(left) > _MOST_PAIRS:
        return Difference("comes back with other elements")
    for item in left:
        match = next((i for i, other in enumerate(right) if type(compare(item, other)) is not Difference), None)
        if match is None:
            return Difference("comes back with other elements")
        del right[match]
    return None


def _parts(parts: Iterable[tuple[str, Any, Any]]) -> Found:
    """Compare parts of a container, each with its name."""
    doubt: Found = None
    for name, one, other in parts:
        found = compare(one, other)
        if found is not None:
            found.below(name)
            if type(found) is Difference:
                return found
            doubt = doubt or found
    return doubt


def _plain(given: Any, got: Any) -> Found:
    """Compare two plain values that `==` finds different; two NaN count as equal."""
    if isinstance(given, (float, Decimal)) and not math.isfinite(given):
        both_nan = isinstance(got, (float, Decimal)) and math.isnan(given) and math.isnan(got)
        return None if both_nan else Difference(f"{given} is not JSON")
    return _changed(given, got)


def _times(given: Any, got: Any) -> Found:
    base: Any = datetime if isinstance(given, datetime) else time
    if isinstance(got, base) and (given.tzinfo is None) == (got.tzinfo is None):
        if given == got:
            # When an hour repeats, `==` ignores the fold, and JSON cannot store it for a time without zone.
            return Doubt("the fold of a time without zone is not stored") if given.fold and not given.tzinfo else None
        # In the hour that repeats when summer time ends, `==` finds a moment unequal to itself in another zone.
        if base is datetime and given.tzinfo and given.astimezone(UTC) == got.astimezone(UTC):
            return None
    return _changed(given, got)


def _others(given: Any, got: Any) -> Found:
    """Compare other values by `==`, if their type defines it."""
    if isinstance(given, _SECRETS) and isinstance(got, _SECRETS) and given != got:
        return Difference("a secret would be stored as asterisks: enqueue where to find it instead")
    kind: Any = type(given)
    try:
        if bool(given == got):
            return Doubt(_change(given, got)) if isinstance(given, Enum) and kind is not type(got) else None
        never_equal = kind.__eq__ is object.__eq__ or bool(given != given)
    except Exception:  # `==` of arrays returns an array, and the service's code may raise anything
        never_equal = True
    if never_equal and kind is type(got):
        return Doubt(f"{kind.__name__} has no equality that tells whether it comes back as it is")
    return _changed(given, got)


_WAYS: tuple[tuple[Any, Callable[[Any, Any], Found]], ...] = (
    (BaseModel, _models),
    ((datetime, time), _times),
    (_SEQUENCES, _sequences),
    (Mapping, _mappings),
    (Set, _sets),
)


def _changed(given: Any, got: Any) -> Difference:
    return Difference("comes back as another value") if type(given) is type(got) else _other_type(given, got)


def _other_type(given: Any, got: Any) -> Difference:
    return Difference(_change(given, got))


def _change(given: Any, got: Any) -> str:
    names = ["nothing" if value is _MISSING else type(value).__qualname__ for value in (given, got)]
    return f"{names[0]} comes back as {names[1]}"
