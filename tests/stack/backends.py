"""Collector, Jaeger and Prometheus as compose would start them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.stack.build import Programs
from tests.stack.layout import Layout
from tests.support.programs import Process, answers, plain_environ, wait_for


class Backends:
    """The three programs, ready inside the block, ended after it.

    Attributes:
        jaeger, prometheus: base URLs of their APIs.
    """

    def __init__(self, layout: Layout, programs: Programs, logs: Path) -> None:
        self._layout, self._programs, self._logs = layout, programs, logs
        self._processes: list[Process] = []
        self.jaeger = f"http://{layout.address('jaeger', 16686)}"
        self.prometheus = f"http://{layout.address('prometheus', 9090)}"

    def __enter__(self) -> Backends:
        at, programs = self._layout.address, self._programs
        # What compose keeps apart by container needs addresses of its own here: defaults that no file names.
        listen = f"--web.listen-address={at('prometheus', 9090)}"
        query = f"--set=extensions.jaeger_query.grpc.endpoint={at('jaeger', 16685)}"
        try:
            self._start("prometheus", programs.prometheus, f"{self.prometheus}/-/ready", listen)
            self._start("jaeger", programs.jaeger, f"http://{at('jaeger', 13133)}/status", query)
            self._start("otel-collector", programs.collector, f"http://{at('otel-collector', 13133)}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._processes:
            self._processes.pop().stop()

    def check(self) -> None:
        """Raises NotInTime if one of them has ended."""
        for process in self._processes:
            process.check()

    def _start(self, service: str, program: Path, ready: str, *more: str) -> None:
        environ = plain_environ() | self._layout.environ(service)
        command: list[str | Path] = [program, *self._layout.command(service), *more]
        process = Process(service, command, environ, self._logs / f"{service}.log")
        self._processes.append(process)
        wait_for(lambda: process.check() and answers(ready), f"{service} to be ready at {ready}")


def validated(layout: Layout, programs: Programs) -> tuple[bool, str]:
    """What `otelcol validate` says of the collector's file: whether it is right, and its words."""
    config = layout.mounted("otel-collector")["/etc/otelcol/config.yaml"]
    done = subprocess.run(
        [programs.collector, "validate", f"--config={config}"], capture_output=True, text=True, timeout=60
    )
    return done.returncode == 0, (done.stdout + done.stderr).strip()
