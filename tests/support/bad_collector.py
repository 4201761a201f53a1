"""Collectors that are of no use: closed, silent, slow, talking nonsense. Raw sockets on 127.0.0.1."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Literal, Self

Manner = Literal["refused", "silent", "slow", "garbage", "endless", "hangs up", "bad answer", "unavailable"]
MANNERS: tuple[Manner, ...] = (
    "refused", "silent", "slow", "garbage", "endless", "hangs up", "bad answer", "unavailable",
)  # fmt: skip


class BadCollector:
    """Listens, unless it refuses; what it does with a request is its manner.

    Attributes:
        manner: `refused` nobody listens; `silent` it takes the request and never answers; `slow` a byte of the answer
            every 0.2 s; `garbage` random bytes; `endless` a header that never ends; `hangs up` at once; `bad answer` a
            200 whose body is no protobuf; `unavailable` 503 with Retry-After.
        asked: connections so far.
    """

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.asked = 0
        self._open: list[socket.socket] = []
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        if manner == "refused":
            self._listener.close()
        else:
            threading.Thread(target=self._accept, daemon=True).start()

    def env(self) -> dict[str, str]:
        """Environment of a process that reports here; it exports often."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.asked += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self.manner == "hangs up":
                connection.close()
                return
            _read_request(connection)
            if self.manner == "silent":
                self._closed.wait()
            elif self.manner == "slow":
                for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n":
                    connection.send(bytes([byte]))
                    time.sleep(0.2)
            elif self.manner == "garbage":
                connection.sendall(os.urandom(4096))
            elif self.manner == "endless":
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while not self._closed.wait(0.01):
                    connection.sendall(b"y" * 1000)
            elif self.manner == "unavailable":
                connection.sendall(b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
            else:
                body = b"<html>" + os.urandom(300)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with suppress(OSError):  # refused: it is closed already; else this ends the accept, which keeps the port
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.close()


def _read_request(connection: socket.socket) -> None:
    """All of it: an answer that comes before the end of the body is an aborted connection for many clients."""
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0]) - len(body) if lengths else 0
    while missing > 0 and (more := connection.recv(65536)):
        missing -= len(more)
