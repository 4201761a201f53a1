"""The server behind `worker web`: one process, one event loop, on one address."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from framework.model.errors import UsageError, WorkerError
from framework.web.config import TOKEN, is_loopback

GOODBYE = 3  # seconds for requests that are under way when the server ends


def check(host: str, guarded: bool, named: bool) -> None:
    """Raise UsageError if other machines could see the page as they like.

    Args:
        guarded: a token or a proxy says who asks. named: hosts under which the page is reached are given.
    """
    if is_loopback(host):
        return
    if not guarded:
        raise UsageError(
            f"{host} is reached from other machines: set {TOKEN}, or name the proxy that authenticates people by "
            "--proxy, or use 127.0.0.1"
        )
    if not named:
        raise UsageError("name what the page is reached as by --allow-host, for instance jobs.example.com")


def serve(asgi: ASGIApp, host: str, port: int, started: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code.

    Args:
        started: takes the page's address once it can be reached.

    Raises WorkerError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise WorkerError(f"{host}:{port} cannot be used: {error.strerror or error}") from error
    with listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            asgi, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="none", http="h11",
            lifespan="on", limit_concurrency=100, timeout_keep_alive=5, timeout_graceful_shutdown=GOODBYE,
        )  # fmt: skip
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        _Server(config).run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """A server that ends with exit code 0 at a signal; uvicorn's own sends the signal to itself again."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, *_: object) -> None:
        self.should_exit = True
