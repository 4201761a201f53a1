"""What the harness needs of a system."""

from __future__ import annotations

import importlib.util
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from bench.children.marks import VARIABLE, Marks
from bench.spawn import Failed, Process, module


class Workers:
    """Running worker processes."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.began = processes[0].began

    def stop(self) -> None:
        """All of them."""
        for process in self.processes:
            process.stop()


class System(ABC):
    """One contestant: its server, its producer, its workers.

    Args:
        place: directory of its own; exists.
        marks: where its handlers mark their jobs.

    Attributes:
        name: in tables.
        configuration: what was chosen for it, for the reader to judge.
        power: whether an acknowledged job survives a power cut.
        producing: module of its producer.
        needs: import names without which it is skipped.
        distributions: whose versions are reported.
        has_bulk: its bulk figure means something.
        has_coroutines: it has a way for blocking code and another for coroutines.
    """

    name: ClassVar[str]
    configuration: ClassVar[str]
    power: ClassVar[bool]
    producing: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = ()
    has_bulk: ClassVar[bool] = True
    has_coroutines: ClassVar[bool] = False

    def __init__(self, place: Path, marks: Marks) -> None:
        self.place = place
        self.marks = marks
        self.producer: Process | None = None
        self._open = ExitStack()

    def open(self) -> None:
        """Starts server and producer. Raises Failed."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise Failed(f"{', '.join(missing)} cannot be imported: pip install '.[bench]'")
        try:
            self.start_server()
            self.start_producer()
        except BaseException:
            self.close()
            raise

    def start_server(self) -> None:  # noqa: B027  # most have none
        """Where there is one: started, and stopped by `close`."""

    def start_producer(self) -> None:
        """Anew, if there was one."""
        if self.producer is not None:
            self.producer.stop()
        self.producer = self.process("producer", module(self.producing), asked=True)
        self.producer.ask(None)

    def close(self) -> None:
        """Ends everything."""
        if self.producer is not None:
            self.producer.stop()
        self._open.close()

    def environ(self) -> Mapping[str, str]:
        """Of its producers and workers."""
        return {}

    @abstractmethod
    def start_workers(self, count: int) -> Workers:
        """Starts so many worker processes."""

    def process(
        self, what: str, command: list[str], *, environ: Mapping[str, str] | None = None, **how: Any
    ) -> Process:
        """A process with the system's environment and a log in its place."""
        variables = {VARIABLE: str(self.marks.path), **self.environ(), **(environ or {})}
        return Process(command, environ=variables, log=self.place / f"{what}.log", **how)

    def serve(self, command: list[str], *, end: signal.Signals = signal.SIGTERM, **how: Any) -> Process:
        """A server that `close` ends, by the signal `end`."""
        server = self.process("server", command, **how)
        self._open.callback(server.stop, end)
        return server

    def ask(self, verb: str, *, patience: float = 60.0, **order: Any) -> dict[str, Any]:
        """Of the producer. Raises Failed, also when there is no answer within `patience` seconds."""
        assert self.producer is not None
        return self.producer.ask({"verb": verb, **order}, patience=patience)
