"""Receivers of OTLP that are not ours: rotel, a collector in Rust, and Datadog's test agent, in Python with a protobuf
and an OTLP of its own versions. What they decoded comes back as what our own receiver would have kept.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.programs import Process, free_ports, listens, wait_for
from tests.support.received import Store
from tests.support.receiver import FAST, Receiver

PATIENCE = 60.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Foreign:
    """A program that receives OTLP on two ports of the loopback; ended when the block ends.

    Attributes:
        http, grpc: its ports.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self.http, self.grpc = free_ports(2)
        self._process: Process | None = None

    def env(self, protocol: str, *, compression: str = "none") -> dict[str, str]:
        """Environment of a process that reports to it."""
        port = self.grpc if protocol == "grpc" else self.http
        return FAST | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_LOGS_EXPORTER": "otlp",
        }

    def seen(self) -> Store:
        """What it has decoded so far."""
        raise NotImplementedError

    def wait_for(self, happened: Callable[[Store], Any], what: str) -> Store:
        """What it has decoded, once that is so. AssertionError after PATIENCE."""
        end = time.monotonic() + PATIENCE
        while not happened(found := self.seen()):
            assert time.monotonic() < end, f"not seen within {PATIENCE} s: {what}; {found.summary()}\n{self.tail()}"
            time.sleep(0.1)
        return found

    def tail(self) -> str:
        return self._process.tail() if self._process is not None else ""

    def start(self, command: Sequence[str | Path]) -> None:
        """Starts it and waits until both ports accept."""
        # A home of its own: nothing of this machine's user is read or written.
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._place)}
        process = self._process = Process(str(command[0]), command, environ, self._place / "log", cwd=self._place)
        wait_for(lambda: process.check() and listens(self.http) and listens(self.grpc), f"{command[0]} to listen")

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()


class Rotel(Foreign):
    """Decodes, batches and exports what it took to a receiver of ours: what it had not understood is not there."""

    def __enter__(self) -> Self:
        self._behind = Receiver()
        back = f"http://127.0.0.1:{self._behind.port}"
        options = {
            "otlp-http-endpoint": f"127.0.0.1:{self.http}",
            "otlp-grpc-endpoint": f"127.0.0.1:{self.grpc}",
            "exporter": "otlp",
            "otlp-exporter-endpoint": back,
            "otlp-exporter-protocol": "http",
            "otlp-exporter-compression": "none",
            "batch-timeout": "50ms",
            "pid-file": str(self._place / "pid"),
            "log-file": str(self._place / "agent.log"),
        }
        program = rotel_program()
        assert program is not None
        self.start([program, "start", *(part for key, value in options.items() for part in (f"--{key}", value))])
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._behind.close()

    def seen(self) -> Store:
        return self._behind


class TestAgent(Foreign):
    """Keeps every request and gives it back as JSON."""

    __test__ = False  # it is none of pytest's

    def __enter__(self) -> Self:
        program = agent_program()
        assert program is not None
        (port,) = free_ports(1)
        self.start(
            [program, "--host=127.0.0.1", f"--port={port}", f"--otlp-http-port={self.http}",
             f"--otlp-grpc-port={self.grpc}", "--disable-llmobs-data-forwarding", f"--snapshot-dir={self._place}"]
        )  # fmt: skip
        return self

    def seen(self) -> Store:
        found = Store()
        for path, message in (
            ("traces", ExportTraceServiceRequest),
            ("metrics", ExportMetricsServiceRequest),
            ("logs", ExportLogsServiceRequest),
        ):
            with _direct.open(f"http://127.0.0.1:{self.http}/test/session/{path}", timeout=PATIENCE) as answer:
                requests = [ParseDict(request, message()) for request in json.load(answer)]
            # It tells the newest first, and of a series the last point counts.
            for request in sorted(requests, key=moment) if path == "metrics" else requests:
                found.add(request)
        return found


def moment(request: ExportMetricsServiceRequest) -> int:
    """When the newest point of a request was made, in ns since the epoch."""
    return max(
        point.time_unix_nano
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in getattr(metric, metric.WhichOneof("data")).data_points
    )


def rotel_program() -> Path | None:
    """Of the dev group; None: there is no wheel for this Python."""
    spec = find_spec("rotel")
    return Path(spec.origin).with_name("rotel-agent") if spec is not None and spec.origin else None


def agent_program() -> Path | None:
    """Of Datadog's test agent. It needs an older opentelemetry-proto than we do, so it lives in an environment of its
    own, made by `make test`; None: it is not there."""
    here = Path(__file__).parents[2] / ".venv-agent" / "bin" / "ddapm-test-agent"
    if here.exists():
        return here
    beside = Path(sys.executable).with_name("ddapm-test-agent")
    found = shutil.which("ddapm-test-agent")
    return beside if beside.exists() else Path(found) if found else None
