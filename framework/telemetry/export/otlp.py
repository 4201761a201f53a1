"""Senders for encoded OTLP requests over http or grpc, configured by the OTEL_EXPORTER_OTLP_* variables."""

from __future__ import annotations

import gzip
import importlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from framework.model.text.redaction import redact
from framework.telemetry.sdk import exporters
from framework.telemetry.sdk.exporters import of_signal

Signal = Literal["traces", "metrics"]
_RETRYABLE_STATUS: Final = (429, 502, 503, 504)
_RETRYABLE_CODES: Final = (
    "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS",
)  # fmt: skip
_METHODS: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request.

    Attributes:
        accepted: the receiver has the request.
        again: it may be sent again: there was no answer, or the receiver asked for it.
        after: seconds that the receiver asks us to wait.
        unreachable: there was no answer.
        rejected: items of an accepted request that the receiver did not take.
        status: the HTTP status, or the code of gRPC; None: there was no answer.
        error: what failed, in few values; empty: nothing.
    """

    accepted: bool = False
    again: bool = False
    after: float | None = None
    cause: str = ""
    unreachable: bool = False
    rejected: int = 0
    status: int | str | None = None
    error: str = ""


class Destination(Protocol):
    """A collector, for one signal.

    Attributes:
        endpoint: the address in a form for people.
        timeout: seconds for one request, from the variables.
    """

    endpoint: str
    timeout: float

    def send(self, body: bytes, timeout: float) -> Answer:
        """Try once. Never raises for a network failure."""

    def leave(self) -> None:
        """Make no pause before a try any more: the process is shutting down."""


def destination(signal: Signal) -> Destination | None:
    """Return the destination that the variables name; None: the signal is off.

    Raises the error of a certificate or a number that cannot be read.
    """
    if "otlp" not in exporters.wanted(signal):
        return None
    return GrpcDestination(signal) if exporters.protocol(signal) == "grpc" else HttpDestination(signal)


class HttpDestination:
    """OTLP over http/protobuf."""

    def __init__(self, signal: Signal) -> None:
        # Imported here, not above: a process that only writes records never sends.
        exchange = importlib.import_module("framework.telemetry.export.exchange")
        own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
        self._url = own or f"{base.rstrip('/')}/v1/{signal}"
        self._signal = signal
        self.endpoint = exporters.endpoint(signal)
        self.timeout = float(of_signal(signal, "TIMEOUT") or 10)
        self._compression = of_signal(signal, "COMPRESSION").strip().lower()
        self._session: Any = exchange.session_of(signal)
        self._pause_of = exchange.pause_of
        self.leave = partial(exchange.leave, self._session)
        self._session.headers.update(parse_env_headers(of_signal(signal, "HEADERS"), liberal=True))
        self._session.headers["Content-Type"] = "application/x-protobuf"
        self._session.headers["User-Agent"] = "continuum-worker"
        if self._compression in ("gzip", "deflate"):
            self._session.headers["Content-Encoding"] = self._compression
        self._session.verify = of_signal(signal, "CERTIFICATE") or True
        certificate, key = of_signal(signal, "CLIENT_CERTIFICATE"), of_signal(signal, "CLIENT_KEY")
        if certificate:
            self._session.cert = (certificate, key) if key else certificate

    def send(self, body: bytes, timeout: float) -> Answer:
        """Send without following redirects: a redirect is the answer of something that is not a collector."""
        if self._compression == "gzip":
            body = gzip.compress(body, compresslevel=5)
        elif self._compression == "deflate":
            body = zlib.compress(body)
        try:
            # Given only the session's `verify`, requests prefers REQUESTS_CA_BUNDLE to it.
            response = self._session.post(
                self._url, data=body, timeout=timeout, allow_redirects=False, verify=self._session.verify
            )
            status, content = response.status_code, response.content
        except Exception as error:  # any failure of the network, of a proxy's address or of a certificate
            cause = redact(str(error))[:300]
            return Answer(again=True, unreachable=True, cause=cause, error=type(error).__name__)
        if 200 <= status < 300:
            return Answer(accepted=True, rejected=_rejected(self._signal, content), status=status)
        after = self._pause_of(response.headers.get("Retry-After"))
        cause = f"{status} {response.reason or ''}".strip()
        again = status in _RETRYABLE_STATUS
        return Answer(again=again, after=after, cause=cause, status=status, error=str(status))


class GrpcDestination:
    """OTLP over grpc. The grpc library is imported in the process that sends, never in one that forks."""

    def __init__(self, signal: Signal) -> None:
        self._grpc: Any = importlib.import_module("grpc")
        given = of_signal(signal, "ENDPOINT") or "http://localhost:4317"
        parts = urlsplit(given if "//" in given else f"//{given}")
        insecure = of_signal(signal, "INSECURE").strip().lower()
        plain = parts.scheme != "https" and (insecure == "true" if insecure else parts.scheme == "http")
        target = parts.netloc.rpartition("@")[2]
        names = self._grpc.Compression
        compression = names.Gzip if of_signal(signal, "COMPRESSION").strip().lower() == "gzip" else names.NoCompression
        self._channel = (
            self._grpc.insecure_channel(target, exporters.GRPC_OPTIONS, compression)
            if plain
            else self._grpc.secure_channel(target, self._credentials(signal), exporters.GRPC_OPTIONS, compression)
        )
        # No serializers: the bytes are sent as they are.
        self._call = self._channel.unary_unary(_METHODS[signal])
        self._headers = tuple(parse_env_headers(of_signal(signal, "HEADERS"), liberal=True).items())
        self._signal = signal
        self.endpoint = exporters.endpoint(signal)
        self.timeout = float(of_signal(signal, "TIMEOUT") or 10)

    def leave(self) -> None:
        """Do nothing: grpc makes no pause before a try."""

    def overhear(self, through: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Send requests through a wrapper of the call from now on, so that `worker doctor` sees the answer."""
        self._call = through(self._call)

    def _credentials(self, signal: Signal) -> Any:
        def read(name: str) -> bytes | None:
            path = of_signal(signal, name)
            if not path:
                return None
            with open(path, "rb") as file:
                return file.read()

        return self._grpc.ssl_channel_credentials(read("CERTIFICATE"), read("CLIENT_KEY"), read("CLIENT_CERTIFICATE"))

    def send(self, body: bytes, timeout: float) -> Answer:
        """Send as over http; the OTLP specification defines which codes allow another try."""
        try:
            content = self._call(body, timeout=timeout, metadata=self._headers)
        except self._grpc.RpcError as error:
            code = error.code().name
            unreachable = code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
            cause = redact(f"{code} {error.details() or ''}")[:300]
            again = code in _RETRYABLE_CODES
            return Answer(again=again, unreachable=unreachable, cause=cause, status=code, error=code)
        return Answer(accepted=True, rejected=_rejected(self._signal, content), status="OK")


def _rejected(signal: Signal, content: bytes) -> int:
    """Return how many items of an accepted request the receiver did not take."""
    if not content:
        return 0
    part = {"traces": "trace", "metrics": "metrics"}[signal]
    module = importlib.import_module(f"opentelemetry.proto.collector.{part}.v1.{part}_service_pb2")
    kind = module.ExportTraceServiceResponse if signal == "traces" else module.ExportMetricsServiceResponse
    try:
        partial = kind.FromString(content).partial_success
    except Exception:  # another text with status 200: the request is gone all the same
        return 0
    return int(partial.rejected_spans if signal == "traces" else partial.rejected_data_points)
