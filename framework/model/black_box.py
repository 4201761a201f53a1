"""The black box of a killed attempt: where its handler stood, what it had logged, and what its process had used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Self

from framework.model.frozen import frozen

_STACK, _LINE, _TEXT = 1100, 160, 1900  # characters in the text of a failure: a stored traceback has 2,000


@frozen
class BlackBox:
    """The record that the supervisor kept of an attempt whose process was killed or died.

    Attributes:
        function, file, line: the innermost frame of the service's own code; empty and 0: unknown.
        stack: the frames of the handler and what it called, the innermost last; empty: unknown.
        log: its last log lines, as they were written, the oldest first.
        peak_memory: most resident memory of the process, in bytes; 0: unknown.
        cpu_time: processor seconds of the process.
        memory_events: the counts of the cgroup's `memory.events` that are not 0.
    """

    function: str = ""
    file: str = ""
    line: int = 0
    stack: str = ""
    log: Sequence[str] = ()
    peak_memory: int = 0
    cpu_time: float = 0.0
    memory_events: Mapping[str, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Return that frame, for example `fetch (relay.py:41)`; empty: unknown."""
        return f"{self.function} ({self.file.rpartition('/')[2]}:{self.line})" if self.function else ""

    def text(self) -> str:
        """Return everything as the text that takes the place of the traceback, in at most 1,900 characters."""
        usage = [f"{self.peak_memory / 2**20:.0f} MiB of memory at most"] if self.peak_memory else []
        usage += [f"{self.cpu_time:.2f} s of processor time"] if self.peak_memory or self.cpu_time else []
        usage += [f"{name} {count}" for name, count in self.memory_events.items()]
        last = f"The process: {', '.join(usage)}\n" if usage else ""
        stack = f"Where it stood (most recent call last):\n{_tail(self.stack, _STACK)}" if self.stack else ""
        room, lines = _TEXT - len(stack) - len(last) - len("Last log lines:\n"), list[str]()
        for line in reversed(self.log):
            told = _told(line)
            cut = told if len(told) <= _LINE else f"{told[: _LINE - 1]}…"
            room -= len(cut) + 3
            if room < 0:
                break
            lines.insert(0, f"  {cut}\n")
        return stack + (f"Last log lines:\n{''.join(lines)}" if lines else "") + last

    def of_job(self) -> dict[str, Any]:
        """Return the fields that tell of the job and not of its process, as JSON can carry them."""
        return {name: getattr(self, name) for name in _OF_JOB}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the black box with these fields; others, of another version, are ignored."""
        return cls(**{name: plain[name] for name in (*_OF_JOB, *_OF_PROCESS) if name in plain})


_OF_JOB = ("function", "file", "line", "stack", "log")
_OF_PROCESS = ("peak_memory", "cpu_time", "memory_events")


# What the failure says already, in a line that may itself be cut: so it is matched and not parsed.
_KNOWN = re.compile(
    r',? ?"(?:process|queue|job_id|attempt|trace_id|span_id)": ?(?:"(?:[^"\\]|\\.)*"|[-\w.]+)(?=[,}])|'
    r'(?<="timestamp":")\d{4}-\d\d-\d\dT'
)


def _told(line: str) -> str:
    """Return a line of JSON without what the failure says already and without the date; another line as it is."""
    if not line.startswith("{"):
        return line
    return "{" + _KNOWN.sub("", line[1:]).lstrip(", ")


def _tail(text: str, most: int) -> str:
    """Return the last whole lines that fit."""
    return text if len(text) <= most else text[-most:].partition("\n")[2]
