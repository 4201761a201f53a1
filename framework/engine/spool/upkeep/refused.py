"""Looks that the system refuses (another user's directory, a bad sector): the rest is seen all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Refused:
    """What was refused in one list."""

    def __init__(self) -> None:
        self._errors: list[OSError] = []

    def __call__(self, look: Callable[[], Iterable[T]], path: str) -> Iterator[T]:
        """Yield what a look gives until it is refused.

        Args:
            path: where it looks; named where the error names nothing.
        """
        try:
            yield from look()
        except FileNotFoundError:  # gone meanwhile
            return
        except OSError as error:
            error.filename = error.filename if isinstance(error.filename, str) else path
            self._errors.append(error)

    def tell(self) -> None:
        """Raise the first OSError, with the number of the others, if there was any."""
        if self._errors:
            first, more = self._errors[0], len(self._errors) - 1
            first.filename += f" (and {more} more)" * bool(more)
            raise first
