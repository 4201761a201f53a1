"""Receivers that mean no good, over real sockets: what they answer is bytes, written by hand."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Self

Answer = Callable[["Hostile", socket.socket], None]

ENDLESS = 1 << 30  # bytes; whoever reads them all is lost


def says(head: str, body: bytes = b"") -> Answer:
    """One answer, whole."""
    return lambda _, peer: peer.sendall(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def drips(start: bytes) -> Answer:
    """A byte every now and then, until the other side has gone."""

    def answer(hostile: Hostile, peer: socket.socket) -> None:
        peer.sendall(start)
        while not hostile.closing.wait(0.02):
            peer.sendall(b"x")

    return answer


def pours(head: str, piece: bytes) -> Answer:
    """The same piece again and again."""

    def answer(hostile: Hostile, peer: socket.socket) -> None:
        peer.sendall(head.encode() + b"\r\n")
        while hostile.poured < ENDLESS:
            peer.sendall(piece)
            hostile.poured += len(piece)

    return answer


def bomb(encoding: str, megabytes: int = 50) -> Answer:
    """A body that is small on the wire."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(press.compress(bytes(1 << 20)) for _ in range(megabytes)) + press.flush()
    return says(f"200 OK\r\nContent-Encoding: {encoding}", body)


def resets(_: Hostile, peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_RDWR)


OK = says("200 OK")
RESET = resets
DRIP = drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
DRIP_HEADERS = drips(b"HTTP/1.1 200 OK\r\nX-Slow: ")
CONTINUE = pours("HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
HUGE = pours("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", b"10000\r\n" + bytes(1 << 16) + b"\r\n")
UNTIL_CLOSED = pours("HTTP/1.1 200 OK\r\n", bytes(1 << 16))
HEADERS = pours("HTTP/1.1 200 OK\r\nX: " + "y" * 60000, b"X: " + b"y" * 60000 + b"\r\n")


class Hostile:
    """Answers each request by `answer`, which may be changed at any time.

    Attributes:
        asked: when each request came, monotonic seconds.
        heads: their first line and headers.
        poured: bytes that `pours` got rid of.
        closing: set when the test ends.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[float] = []
        self.heads: list[str] = []
        self.poured = 0
        self.closing = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._server.accept()[0],), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError), peer, peer.makefile("rb") as file:
            while line := file.readline():
                head = [line]
                while head[-1].strip():
                    head.append(file.readline())
                length = next((int(h.split(b":")[1]) for h in head if h.lower().startswith(b"content-length")), 0)
                file.read(length)
                self.asked.append(time.monotonic())
                self.heads.append(b"".join(head).decode("latin-1"))
                self.answer(self, peer)
