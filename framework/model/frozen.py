"""Records that nobody changes, by the word of the type checker instead of a check at run time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A dataclass that mypy and pyright treat as frozen.

    `dataclass(frozen=True)` sets every field through `object.__setattr__`: 5 µs instead of 1 for a record of fifteen,
    several times a job.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
