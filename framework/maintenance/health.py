"""Probes over HTTP: /livez never depends on the engine, /readyz does, /startupz: was any worker ever ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RETRY = 1.0  # seconds between tries to bind: the address may still belong to the process that we replace


class HealthServer:
    """Serves in a thread; binds as soon as the address is free.

    Args:
        address: `host:port`, checked by the settings.
        say: told once why it cannot bind yet.
        checks: path without slash to a function that returns an empty string, or what is wrong.
    """

    def __init__(self, address: str, checks: dict[str, Callable[[], str]], *, say: Callable[[str], None]) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._checks = checks
        self._say = say
        threading.Thread(target=self._serve, name="health", daemon=True).start()

    def _serve(self) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # a megabyte, for those who want probes

        checks = self._checks

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                check = checks.get(self.path.strip("/").partition("?")[0])
                wrong = "no such probe: /livez /readyz /startupz" if check is None else check()
                body = (wrong or "ok").encode() + b"\n"
                self.send_response(404 if check is None else 503 if wrong else 200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                pass  # a probe every second is no news

        said = False
        while True:
            try:
                server = ThreadingHTTPServer(self._address, Handler)
            except OSError as error:
                if not said:
                    said = True
                    where = "{}:{}".format(*self._address)
                    self._say(f"health probes cannot be served at {where} yet, trying on: {error.strerror or error}")
                time.sleep(RETRY)
                continue
            server.daemon_threads = True
            server.serve_forever(poll_interval=60.0)
