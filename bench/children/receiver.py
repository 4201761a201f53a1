"""A collector that only counts: OTLP over http/protobuf, in a process of its own.

While the run lasts it only keeps the bodies; it looks into them when it is asked (`GET /spans`). So it costs the
measured system as little as a collector can.
"""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = 1, 2, 2  # field numbers on the way down
_SPAN_ID, _NAME = 2, 5
_FIXED = {1: 8, 5: 4}  # bytes by wire type


def fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Each length-delimited field of a protobuf message; others are stepped over. Raises ValueError."""
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = varint(data, at)
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind == 0:
            _, at = varint(data, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind}")


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def process_spans(body: bytes) -> Iterator[bytes]:
    """The span id of each `process` span of an export request."""
    for number, resource in fields(memoryview(body)):
        for scope_number, scope in fields(resource) if number == _RESOURCE_SPANS else ():
            for span_number, span in fields(scope) if scope_number == _SCOPE_SPANS else ():
                if span_number == _SPANS and (found := _id_of_process(span)):
                    yield found


def _id_of_process(span: memoryview) -> bytes:
    span_id = b""
    for number, value in fields(span):
        if number == _SPAN_ID:
            span_id = bytes(value)
        elif number == _NAME:
            return span_id if bytes(value[:8]) == b"process " else b""
    return b""


class Heap:
    """What has arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        with self._lock:
            self._unread: list[tuple[str, bytes]] = []
            self._ids: set[bytes] = set()
            self._seen = self._requests = self._last = 0

    def add(self, encoding: str, body: bytes) -> None:
        with self._lock:
            self._unread.append((encoding, body))
            self._requests += 1
            self._last = time.monotonic_ns()

    def count(self) -> dict[str, int]:
        """Spans, distinct ids, requests, and when the last request came (monotonic ns)."""
        with self._lock:
            unread, self._unread = self._unread, []
        ids = [found for encoding, body in unread for found in process_spans(_UNPACK.get(encoding, bytes)(body))]
        with self._lock:
            self._ids.update(ids)
            self._seen += len(ids)
            return {
                "spans": self._seen, "distinct": len(self._ids), "requests": self._requests, "last": self._last
            }  # fmt: skip


heap = Heap()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            heap.add(self.headers.get("content-encoding", ""), body)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(json.dumps(heap.count()).encode())

    def do_DELETE(self) -> None:
        heap.forget()
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    os.write(1, json.dumps({"ready": True, "port": server.server_address[1]}).encode() + b"\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
