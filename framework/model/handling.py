"""What handlers and hooks get and tell while a job runs: the job as `around` gets it, checkpoints, and progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from framework.model.extras import MOST_SAVED

if TYPE_CHECKING:
    from framework.model.attempt import Attempt
    from framework.model.job import Lease

MOST_TEXT = 100  # characters of the text beside a progress
_MOST = 1e300  # of its numbers


@dataclass(frozen=True, slots=True)
class Running:
    """A job that is about to run, as `around` gets it.

    Attributes:
        queue, job_id, attempt: as in `Context`.
        headers: the headers that the job was enqueued with, without the framework's own.
        payload: the value that the handler gets.
    """

    queue: str
    job_id: str
    attempt: int
    headers: Mapping[str, str]
    payload: Any


@dataclass(frozen=True, slots=True)
class Progress:
    """The last report of a running job. Raises ValueError, TypeError: a value is none of a progress.

    Attributes:
        done: in any unit, 0 or more.
        total: in the same unit, more than 0; None: unknown.
        text: up to 100 characters; what is longer is cut.
    """

    done: float
    total: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        _check_number("done", self.done, "0 or more", self.done == 0)
        if self.total is not None:
            _check_number("total", self.total, "more than 0", False)
        if not isinstance(self.text, str):
            raise TypeError(f"ctx.progress(text={self.text!r:.60}): must be text")
        object.__setattr__(self, "text", self.text[:MOST_TEXT])

    def __str__(self) -> str:
        """Return the report in words, for example `420 of 1,000 (42 %): resizing`."""
        far = f"{self.done:,.12g}"
        if self.total is not None:
            far += f" of {self.total:,.12g} ({self.done / self.total:.0%})".replace("%", " %")
        return f"{far}: {self.text}" if self.text else far


def _check_number(name: str, value: object, be: str, zero: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"ctx.progress({name}={value!r:.60}): must be a number")
    if not (zero or 0 < value < _MOST):
        raise ValueError(f"ctx.progress({name}={value!r:.60}): must be {be}, and finite")


class Host(Protocol):
    """What executes a run, as its context needs it. Both may be called in any thread."""

    def save(self, lease: Lease, state: str, /) -> None:
        """Store a checkpoint durably, as `Engine.save` does."""

    def progress(self, attempt: Attempt, progress: Progress, /) -> None:
        """Show a progress to people."""


def encoded(state: Any) -> str:
    """Return a checkpoint as JSON. Raises ValueError: it is no JSON, would come back changed, or is too large."""
    try:
        text = json.dumps(state, allow_nan=False, separators=(",", ":"))
        same = json.loads(text) == state
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"ctx.save(): the state is no JSON: {str(error)[:200]}") from None
    if not same:
        raise ValueError(
            "ctx.save(): the next attempt would get another state: use lists instead of tuples, and text as keys"
        )
    if len(text) > MOST_SAVED:
        raise ValueError(
            f"ctx.save(): the state has {len(text):,} characters of JSON, and may have {MOST_SAVED:,}: store it "
            "elsewhere, and save where it is"
        )
    return text


async def in_thread(call: Callable[[], None]) -> None:
    """Make a call in a thread, and wait for its end also when cancelled: until then the job must not be settled."""
    work = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
