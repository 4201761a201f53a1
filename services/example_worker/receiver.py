"""A subscriber to try the relay against: answers in stated shares, checks signatures, counts.

RECEIVER_SECRET=... python -m services.example_worker.receiver --port 8900 --shares ok=90,503=5,429=3,404=1,hang=1
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from services.example_worker.answers import DEFAULT, Shares
from services.example_worker.signing import HEADER, verify
from services.example_worker.stopping import on_stop_signal
from services.example_worker.telemetry import exported

LARGEST = 10 * 1024 * 1024  # bytes of a request's body
REMEMBERED = 100_000  # deliveries; a receiver that runs for weeks must not grow for ever
tracer = trace.get_tracer(__name__)


@dataclass
class Counts:
    """What came in. Every method may be called from any thread."""

    requests: int = 0
    delivered: int = 0  # deliveries answered 2xx for the first time
    duplicates: int = 0  # answered 2xx before: at least once means that there may be some
    bad_signatures: int = 0
    aborted: int = 0  # requests whose sender went away before their end
    traced: int = 0  # requests with a trace context
    bytes: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    _seen: OrderedDict[str, list[int]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arrived(self, delivery: str, event: str, size: int, *, traced: bool) -> int:
        """Counts a request and returns how many there were of this delivery, this one included."""
        with self._lock:
            self.requests += 1
            self.bytes += size
            self.traced += traced
            self.events[event] += 1
            times = self._seen.setdefault(delivery, [0, 0])
            times[0] += 1
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            return times[0]

    def cut_off(self) -> None:
        """Counts a request that never was complete."""
        with self._lock:
            self.aborted += 1

    def answered(self, delivery: str, status: int) -> None:
        """Counts an answer; 0 = none was given."""
        with self._lock:
            self.statuses[str(status) if status else "hang"] += 1
            self.bad_signatures += status == 401
            if 200 <= status < 300:
                times = self._seen.setdefault(delivery, [1, 0])
                times[1] += 1
                self.delivered += times[1] == 1
                self.duplicates += times[1] > 1

    def snapshot(self) -> dict[str, Any]:
        """All counts, for `/stats`."""
        with self._lock:
            plain = {name: value for name, value in vars(self).items() if not name.startswith("_")}
            return {**plain, "statuses": dict(self.statuses), "events": dict(self.events)}


class Receiver(ThreadingHTTPServer):
    """One thread for each connection.

    Args:
        port: 0 = any free one; `server_port` tells it.
        hang: seconds that a request which gets no answer is held before its connection is closed.
        retry_after: seconds that 429 and 503 ask for, now as a number, now as a date.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *,
        secret: str,
        shares: Shares,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 1,
        hang: float = 30.0,
        retry_after: int = 1,
    ) -> None:
        self.secret, self.shares, self.seed, self.host = secret, shares, seed, host
        self.hang, self.retry_after = hang, retry_after
        self.counts = Counts()
        self.connections = 0
        self.stopping = threading.Event()
        super().__init__((host, port), Answer)

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://{self.host}:{self.server_port}/hooks"

    def get_request(self) -> tuple[Any, Any]:
        self.connections += 1
        return super().get_request()

    def stop(self) -> None:
        """Ends `serve_forever`, which runs in another thread, and lets go of hanging requests."""
        self.stopping.set()
        self.shutdown()


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    server: Receiver  # pyright: ignore[reportIncompatibleVariableOverride] - no other server makes it
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds a connection may stay idle
    disable_nagle_algorithm = True  # head and body are two writes: 40 ms each otherwise

    def do_GET(self) -> None:
        if self.path == "/stats":
            self.reply(200, json.dumps(self.server.counts.snapshot()).encode())
        else:
            self.reply(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > LARGEST:
            self.close_connection = True  # what follows would be read as the next request
            self.reply(413 if size.isdigit() else 411)
            return
        body = self.rfile.read(int(size))
        if len(body) < int(size):  # the sender died while it sent
            self.close_connection = True
            self.server.counts.cut_off()
            return
        context = propagate.extract(dict(self.headers.items()))
        attributes = {"http.request.method": "POST", "url.path": self.path}
        with tracer.start_as_current_span("POST /hooks", context, SpanKind.SERVER, attributes) as span:
            status = self.receive(body, traced=trace.get_current_span(context).get_span_context().is_valid)
            if status:
                span.set_attribute("http.response.status_code", status)

    def receive(self, body: bytes, *, traced: bool) -> int:
        """Counts, decides, answers; returns the status."""
        server, delivery = self.server, self.headers.get("X-Delivery", "")
        time = server.counts.arrived(delivery, self.headers.get("X-Event", ""), len(body), traced=traced)
        signed = verify(server.secret, body, self.headers.get(HEADER, ""))
        status = server.shares.draw(server.seed, delivery, time) if signed else 401
        server.counts.answered(delivery, status)
        if status:
            self.reply(status, retry_after=self.pause(delivery, status))
        else:
            server.stopping.wait(server.hang)
            self.close_connection = True
        return status

    def pause(self, delivery: str, status: int) -> str | None:
        """Value of `Retry-After`: both forms occur in the wild, so both occur here."""
        if status not in (429, 503):
            return None
        if sum(delivery.encode()) % 2:
            return str(self.server.retry_after)
        return format_datetime(datetime.now(UTC) + timedelta(seconds=self.server.retry_after), usegmt=True)

    def reply(self, status: int, body: bytes = b"", *, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent: counts say it all, and one line for each request would be the slowest part."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8900, show_default=True, help="0: any free one.")
@click.option("--shares", default=DEFAULT, show_default=True, help="What is answered how often.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives a delivery the same answers.")
@click.option("--hang", default=30.0, show_default=True, help="Seconds until a request without answer is let go.")
@click.option("--retry-after", default=1, show_default=True, help="Seconds that 429 and 503 ask for.")
def main(host: str, port: int, shares: str, seed: int, hang: float, retry_after: int) -> None:
    """Receives webhooks; its secret is RECEIVER_SECRET. GET /stats tells what came in."""
    secret = os.environ.get("RECEIVER_SECRET", "")
    if not secret:
        raise click.UsageError("RECEIVER_SECRET is not set: it is the secret that the relay signs with")
    try:
        server = Receiver(
            secret=secret,
            shares=Shares.parse(shares),
            host=host,
            port=port,
            seed=seed,
            hang=hang,
            retry_after=retry_after,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    on_stop_signal(server.stopping.set)
    with exported("example-receiver"), server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        click.echo(f"listening on {server.url}")
        server.stopping.wait()
        server.stop()


if __name__ == "__main__":
    main()
