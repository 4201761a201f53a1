"""The counting receiver, seen from the harness."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Self

from bench.spawn import Process, module


class Receiver:
    """A receiver in a process of its own.

    Args:
        log: where it writes.

    Attributes:
        endpoint: for OTEL_EXPORTER_OTLP_ENDPOINT.
    """

    def __init__(self, log: Path) -> None:
        self._process = Process(module("bench.children.receiver"), environ={}, log=log, asked=True)
        self._port = int(self._process.ask(None)["port"])
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def forget(self) -> None:
        """What has come so far."""
        self._call("DELETE")

    def count(self) -> dict[str, int]:
        """`spans` and `distinct` ids of `process` spans, `requests`, and when the `last` came (monotonic ns)."""
        found: dict[str, int] = json.loads(self._call("GET"))
        return found

    def wait_for(self, spans: int, patience: float) -> dict[str, int]:
        """The count when so many distinct spans are there, or after `patience` seconds."""
        end = time.monotonic() + patience
        while (found := self.count())["distinct"] < spans and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _call(self, method: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, "/spans")
            return connection.getresponse().read()
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
