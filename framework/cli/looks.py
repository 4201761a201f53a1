"""Reading a store of which parts may be damaged or belong to another user: the rest is still shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from framework.cli.output import warn
from framework.model.errors import EngineError

T = TypeVar("T")


class Looks:
    """The reads of a command, with the errors of those that failed.

    Args:
        refused: errors of queues that could not be opened.

    Attributes:
        failed: the errors of all failed reads.
    """

    def __init__(self, refused: Mapping[str, EngineError]) -> None:
        self.failed = list(refused.values())

    def __call__(self, look: Callable[[], T], instead: T) -> T:
        """Return the result of a read, or `instead` if it fails."""
        try:
            return look()
        except EngineError as error:
            self.failed.append(error)
            return instead

    def each(self, look: Iterable[T]) -> Iterator[T]:
        """Yield the items of a read until it fails."""
        try:
            yield from look
        except EngineError as error:
            self.failed.append(error)

    def say(self) -> int:
        """Warn of each failure once; return the command's exit code."""
        for text in dict.fromkeys(str(error).removesuffix(": tried again") for error in self.failed):
            warn(text)
        return 1 if self.failed else 0
