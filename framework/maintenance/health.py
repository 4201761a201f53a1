"""Probes over HTTP. /livez never depends on the engine, /readyz does, /startupz tells whether a worker was ever ready.

Every client that reaches the port may hold connections open, send slowly or send garbage. One thread serves a limited
number of connections, each for a limited time, and the newest displaces the oldest. So a probe is answered as soon as
its request has arrived, and maintenance keeps its descriptors for the engine.
"""

from __future__ import annotations

import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

RETRY = 1.0  # seconds between tries to bind: the address may still belong to the process that this one replaces
MOST = 64  # connections at once
LONGEST = 5.0  # seconds that a connection may take, whatever it sends
WAITING = 1024  # connections that the kernel keeps until they are accepted; they cost no descriptor
LARGEST = 8192  # bytes of a request's head; a probe needs no more
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(slots=True)
class Connection:
    """The connection of a client; `head` is what it has sent so far, None once it was answered."""

    socket: socket.socket
    until: float
    head: bytes | None = b""


class HealthServer:
    """The HTTP server of the probes. It serves in a thread, and binds as soon as the address is free.

    Args:
        address: `host:port`, checked by the settings.
        checks: by path without slash, functions that return what is wrong, or an empty string.
        say: takes one line, once, about why the address cannot be bound yet.
        longest: seconds that a connection may take.
    """

    def __init__(
        self,
        address: str,
        checks: dict[str, Callable[[], str]],
        *,
        say: Callable[[str], None],
        longest: float = LONGEST,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._checks = checks
        self._say = say
        self._longest = longest
        # If descriptors are few, most of them are left to the engine.
        self._most = max(1, min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._open: dict[int, Connection] = {}  # by descriptor, the oldest first
        threading.Thread(target=self._serve, name="health", daemon=True).start()

    def _serve(self) -> None:
        listener = self._bind()
        self._selector.register(listener, selectors.EVENT_READ)
        while True:
            soonest = min((one.until for one in self._open.values()), default=None)
            patience = None if soonest is None else max(0.0, soonest - time.monotonic())
            for key, _ in self._selector.select(patience):
                if key.fileobj is listener:
                    self._accept(listener)
                elif (one := self._open.get(key.fd)) is not None:
                    self._read(one)
            now = time.monotonic()
            for one in [one for one in self._open.values() if one.until <= now]:
                self._close(one)

    def _bind(self) -> socket.socket:
        said = False
        while True:
            try:
                self._selector = selectors.DefaultSelector()
                family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
                listener = socket.create_server(self._address, family=family, backlog=WAITING)
            except OSError as error:
                if not said:
                    said = True
                    where = "{}:{}".format(*self._address)
                    self._say(f"health probes cannot be served at {where} yet, trying on: {error.strerror or error}")
                time.sleep(RETRY)
                continue
            listener.setblocking(False)
            return listener

    def _accept(self, listener: socket.socket) -> None:
        if len(self._open) >= self._most:
            self._close(next(iter(self._open.values())))
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):  # the client is gone already
            return
        except OSError:  # no descriptors: the client stays queued, and the pause keeps this thread from spinning
            time.sleep(RETRY / 10)
            return
        client.setblocking(False)
        one = Connection(client, time.monotonic() + self._longest)
        self._open[client.fileno()] = one
        self._selector.register(client, selectors.EVENT_READ)
        self._read(one)

    def _read(self, one: Connection) -> None:
        try:
            data = one.socket.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(one)
        elif one.head is not None:  # later data is read too: a close with unread data resets the answer
            one.head += data
            if b"\r\n\r\n" in one.head or b"\n\n" in one.head or len(one.head) > LARGEST:
                self._answer(one, one.head)

    def _answer(self, one: Connection, head: bytes) -> None:
        one.head = None
        with suppress(OSError):  # an answer fits into the buffer of any socket
            one.socket.send(self._response(head))
            one.socket.shutdown(socket.SHUT_WR)

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\n")[0].rstrip(b"\r").partition(b" ")
        target, _, version = rest.partition(b" ")
        if len(head) > LARGEST or not version.startswith(b"HTTP/1."):
            return _response(400, "send GET /livez HTTP/1.1")
        if method not in (b"GET", b"HEAD"):
            return _response(405, "probes are asked with GET or HEAD", "Allow: GET, HEAD\r\n")
        check = self._checks.get(target.decode("latin-1").partition("?")[0].strip("/"))
        if check is None:
            status, text = 404, "no such probe: /livez /readyz /startupz"
        else:
            text = _result(check)
            status = 503 if text else 200
        return _response(status, text or "ok", without_body=method == b"HEAD")

    def _close(self, one: Connection) -> None:
        del self._open[one.socket.fileno()]
        self._selector.unregister(one.socket)
        one.socket.close()


def _result(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"the probe fails: {type(error).__name__}"


def _response(status: int, text: str, headers: str = "", *, without_body: bool = False) -> bytes:
    body = text.encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if without_body else body)
