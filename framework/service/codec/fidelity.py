"""Whether a worker reads what was given to `enqueue`: compares a payload with its copy that was stored and read back.

`==` alone does not tell: it calls a pydantic model with another private attribute different, and two dataclasses equal
that differ in a field with `compare=False`. So containers, models and dataclasses are compared part by part, and `==`
decides about the rest.
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
_MOST_PAIRS = 100  # elements of a set that are compared each with each
_MISSING = object()


class Difference:
    """A part that comes back different.

    Attributes:
        path: from the part up to the payload: names of fields, indices, and `*` for the key of a mapping.
        what: how it differs, without the values.
    """

    def __init__(self, what: str) -> None:
        self.path: list[str] = []
        self.what = what

    def below(self, part: str) -> Difference:
        """The same difference, seen from one level higher."""
        self.path.append(part)
        return self

    def __str__(self) -> str:
        return f"{'.'.join(reversed(self.path)) or 'payload'}: {self.what}"


class Doubt(Difference):
    """A part that may come back different: no comparison can tell, or only its type changes."""


Found = Difference | None


def difference(given: Any, got: Any) -> Found:
    """Return the first difference; a doubt where there is nothing worse; None where both are equal. Never raises."""
    try:
        return compare(given, got)
    except RecursionError:
        return None if given == got else Doubt("is nested too deep to compare")
    except Exception as error:  # `==` of a class of the service's own
        return Doubt(f"{type(error).__name__} in a comparison")


def compare(given: Any, got: Any) -> Found:
    """Like `difference`, but raises what `==` of a class of the service's own raises."""
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
    # The loop of `_parts`, written out: this is nearly every payload.
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
    """Return what is to be said of a field that comes back different."""
    if found is None:
        return None
    if type(given).__pydantic_fields__[name].exclude:
        if name not in given.__pydantic_fields_set__:
            return None  # a default that is made anew in each process
        found = Difference("has a value, but Field(exclude=True) keeps it out of what is stored")
    return found if name == "root" else found.below(name)


def _generic(kind: type) -> Any:
    """Return the model that was given parameters; pydantic, too, calls `Box[int](v=1)` and `Box(v=1)` equal."""
    return getattr(kind, "__pydantic_generic_metadata__", {}).get("origin") or kind


def _private(given: Mapping[str, Any], got: Mapping[str, Any] | None) -> Found:
    """Private attributes are no part of a payload: nothing is refused for them."""
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
        return Doubt(_change(given, got))  # a tuple where any sequence may stand is read back as a list
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
    """Compare what `==` calls different, and may be equal all the same."""
    if isinstance(given, (float, Decimal)) and not math.isfinite(given):
        both_nan = isinstance(got, (float, Decimal)) and math.isnan(given) and math.isnan(got)
        return None if both_nan else Difference(f"{given} is not JSON")
    return _changed(given, got)


def _times(given: Any, got: Any) -> Found:
    base: Any = datetime if isinstance(given, datetime) else time
    if isinstance(got, base) and (given.tzinfo is None) == (got.tzinfo is None):
        if given == got:
            # Python calls both hours equal, and JSON has no word for the second one of a time without zone.
            return Doubt("the fold of a time without zone is not stored") if given.fold and not given.tzinfo else None
        # In the hour that is repeated when summer time ends, Python calls a moment unequal to itself in another zone.
        if base is datetime and given.tzinfo and given.astimezone(UTC) == got.astimezone(UTC):
            return None
    return _changed(given, got)


def _others(given: Any, got: Any) -> Found:
    """Compare by `==`, where a type has one."""
    if isinstance(given, _SECRETS) and isinstance(got, _SECRETS) and given != got:
        return Difference("a secret would be stored as asterisks: enqueue where to find it instead")
    kind: Any = type(given)
    try:
        if bool(given == got):
            return Doubt(_change(given, got)) if isinstance(given, Enum) and kind is not type(got) else None
        never_equal = kind.__eq__ is object.__eq__ or bool(given != given)
    except Exception:  # an array of numbers answers with an array, and user code may raise anything
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
