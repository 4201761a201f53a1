"""The metrics of a tree for a Prometheus server that scrapes them: `WORKER_METRICS=host:port`.

The exporter serves what it counts, exact under kills, and what the SDK of each slot's process measures: those write
it to a file (`sdk/snapshot.py`) every few seconds.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from framework.telemetry.export.prometheus import CONTENT_TYPE, text_of

PATH: Final = "/metrics"
RETRY: Final = 1.0  # seconds between tries to bind: the address may still belong to the process before
LONGEST: Final = 5.0  # seconds that a client may take for its request, and for each part of the answer
MOST: Final = 8  # connections at once
OLDEST: Final = 30.0  # seconds since a snapshot was written: its process is gone, or it stands still


def snapshots(paths: Iterable[Path]) -> list[ResourceMetrics]:
    """Return what the SDK measured in the processes of these slots.

    A file that cannot be read is passed over, and so is an old one: no value is better than one that is not true any
    more. A clock that was set back does not make it new.
    """
    found: list[ResourceMetrics] = []
    for path in paths:
        try:
            if abs(time.time() - path.stat().st_mtime) > OLDEST:
                continue
            found += ExportMetricsServiceRequest.FromString(path.read_bytes()).resource_metrics
        except Exception:  # not written yet, or damaged; protobuf's own error is not public in all of its builds
            continue
    return found


class ScrapeServer:
    """The HTTP server. It binds and serves in a thread.

    Args:
        address: `host:port`, checked by the settings.
        collect: returns all metrics now.
        say: takes one line, once, about why the address cannot be bound yet, and one for each kind of failing scrape.
    """

    def __init__(self, address: str, collect: Callable[[], list[ResourceMetrics]], say: Callable[[str], None]) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._collect, self._say = collect, say
        threading.Thread(target=self._serve, name="scrape", daemon=True).start()

    def _serve(self) -> None:
        said = False
        while True:
            try:
                server = _Server(self._address, self._collect, self._say)
            except OSError as error:
                if not said:
                    said = True
                    where = "{}:{}".format(*self._address)
                    self._say(f"metrics cannot be served at {where} yet, trying on: {error.strerror or error}")
                time.sleep(RETRY)
                continue
            server.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], collect: Callable[[], list[ResourceMetrics]], say: Callable[[str], None]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.collect = collect
        self._say = say
        self._said: set[type[BaseException]] = set()
        self._room = threading.BoundedSemaphore(MOST)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client in a thread, or drop it where too many are served."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException as error:  # no thread can be started: the thread that gives the room back is missing
            self._room.release()
            self.say_failed(error)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def say_failed(self, error: BaseException) -> None:
        """Say why a scrape failed, once for each class of error."""
        if type(error) not in self._said:
            self._said.add(type(error))
            self._say(f"a scrape of {PATH} failed: {type(error).__name__}: {error}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no error of the service."""


class _Handler(BaseHTTPRequestHandler):
    timeout = LONGEST
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"metrics are at {PATH}")
            return
        try:
            body = text_of(self.server.collect())
        except Exception as error:  # a bug, or no memory: the server that scrapes notes a failed scrape
            self.server.say_failed(error)
            self.send_error(500, "metrics cannot be collected; the log says why")
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...
