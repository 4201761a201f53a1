"""The errors of looks that the system refuses (another user's directory, a bad sector): all else is seen first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Refused:
    """The errors that were met while one list was made."""

    def __init__(self) -> None:
        self._errors: list[OSError] = []

    def __call__(self, look: Callable[[], Iterable[T]], path: str) -> Iterator[T]:
        """Yield the results of a look until the system refuses it.

        Args:
            path: the path that it looks at, put into an error that names none.
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
