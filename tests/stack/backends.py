"""Collector, Jaeger, Prometheus and VictoriaLogs as compose would start them; and two receivers of ours behind the
collector, which see every span and metric, and the spans that were sampled."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.stack.build import Programs
from tests.stack.layout import Layout
from tests.stack.pins import load
from tests.support.programs import Process, answers, plain_environ, wait_for
from tests.support.receiver import Receiver

ALL = 100  # percent of the traces


class Backends:
    """The programs, ready inside the block, ended after it.

    Attributes:
        jaeger, prometheus, victorialogs: base URLs of their APIs.
        every: what came to the collector; kept: the spans that its sampling let through.
    """

    def __init__(self, layout: Layout, programs: Programs, logs: Path) -> None:
        self._layout, self._programs, self._logs = layout, programs, logs
        self._processes: dict[str, Process] = {}
        self.jaeger = f"http://{layout.address('jaeger', 16686)}"
        self.prometheus = f"http://{layout.address('prometheus', 9090)}"
        self.victorialogs = f"http://{layout.address('victorialogs', 9428)}"
        self.every, self.kept = Receiver(), Receiver()
        self._more = layout.place / "receivers.yaml"

    def __enter__(self) -> Backends:
        at, programs = self._layout.address, self._programs
        # What compose keeps apart by container needs addresses of its own here: defaults that no file names.
        listen = f"--web.listen-address={at('prometheus', 9090)}"
        query = f"--set=extensions.jaeger_query.grpc.endpoint={at('jaeger', 16685)}"
        lines = f"-httpListenAddr={at('victorialogs', 9428)}"
        try:
            self._start("prometheus", programs.prometheus, f"{self.prometheus}/-/ready", listen)
            self._start("jaeger", programs.jaeger, f"http://{at('jaeger', 13133)}/status", query)
            self._start("victorialogs", programs.victorialogs, f"{self.victorialogs}/health", lines)
            self._more.write_text(json.dumps(self._receivers()))
            self.keep(ALL)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._processes:
            self._processes.popitem()[1].stop()
        self.every.close()
        self.kept.close()

    def check(self) -> None:
        """Raises NotInTime if one of them has ended."""
        for process in self._processes.values():
            process.check()

    def keep(self, share: int) -> None:
        """Start the collector, anew if it runs: it keeps so many percent of the traces in which nothing is odd."""
        if (before := self._processes.pop("otel-collector", None)) is not None:
            before.stop()
        ready = f"http://{self._layout.address('otel-collector', 13133)}"
        environ = {"TRACES_KEPT": str(share)}
        self._start("otel-collector", self._programs.collector, ready, f"--config={self._more}", environ=environ)

    def _receivers(self) -> dict[str, Any]:
        """A second file for the collector: its lists take the place of those of the first."""
        pipelines = load("otel-collector.yaml")["service"]["pipelines"]
        more = {"traces": "every", "metrics": "every", "traces/sampled": "kept"}
        found = {name: {"exporters": [*pipelines[name]["exporters"], f"otlp_http/{to}"]} for name, to in more.items()}
        ports = {"every": self.every.port, "kept": self.kept.port}
        exporters = {f"otlp_http/{name}": {"endpoint": f"http://127.0.0.1:{port}"} for name, port in ports.items()}
        return {"exporters": exporters, "service": {"pipelines": found}}

    def _start(
        self, service: str, program: Path, ready: str, *more: str, environ: dict[str, str] | None = None
    ) -> None:
        variables = plain_environ() | self._layout.environ(service) | (environ or {})
        command: list[str | Path] = [program, *self._layout.command(service), *more]
        process = Process(service, command, variables, self._logs / f"{service}.log")
        self._processes[service] = process
        wait_for(lambda: process.check() and answers(ready), f"{service} to be ready at {ready}")


def validated(layout: Layout, programs: Programs) -> tuple[bool, str]:
    """What `otelcol validate` says of the collector's file: whether it is right, and its words."""
    config = layout.mounted("otel-collector")["/etc/otelcol/config.yaml"]
    done = subprocess.run(
        [programs.collector, "validate", f"--config={config}"], capture_output=True, text=True, timeout=60
    )
    return done.returncode == 0, (done.stdout + done.stderr).strip()
