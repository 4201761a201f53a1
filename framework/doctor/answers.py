"""Interpretation of a receiver's answer to a test of `worker doctor`, with a hint where the answer is not a success."""

from __future__ import annotations

import importlib
import ssl
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, Final, Literal
from urllib.parse import urlsplit

State = Literal["arrived", "partial", "refused", "unreachable", "timeout", "tls", "broken"]

_SERVICES: Final = {
    "traces": ("trace", "ExportTraceServiceResponse", "rejected_spans"),
    "metrics": ("metrics", "ExportMetricsServiceResponse", "rejected_data_points"),
    "logs": ("logs", "ExportLogsServiceResponse", "rejected_log_records"),
}


@dataclass
class Heard:
    """The first answer to one test, as it came over the network.

    Attributes:
        status: the HTTP status, or the code of gRPC; None: there was no answer.
        reason: the text beside the status.
        content: the body of a successful answer.
        error: why there was no answer.
        done: set when there is an answer or an error.
        seconds: the time until then.
        at, date: our clock and the receiver's at the answer, seconds since the epoch; None: the answer has no date.
    """

    status: int | str | None = None
    reason: str = ""
    content: bytes = b""
    content_type: str = ""
    error: BaseException | None = None
    seconds: float = 0.0
    at: float = 0.0
    date: float | None = None
    done: Event = field(default_factory=Event)


@dataclass(frozen=True)
class Verdict:
    """The result of one test.

    Attributes:
        answer: the answer in words for people.
        hint: how to solve the problem; empty where there is none, or no solution is known.
    """

    state: State
    answer: str
    hint: str = ""


def judge(heard: Heard, signal: str, *, grpc: bool, url: str, limit: float) -> Verdict:
    """Return the result of a test.

    Args:
        url: the address, without credentials.
        limit: seconds after which the doctor stopped waiting.
    """
    if not heard.done.is_set():
        return Verdict("timeout", f"no answer within {limit:g} s", _SILENT)
    if heard.error is not None:
        return _grpc_trouble(heard) if grpc else _http_trouble(heard, url)
    if grpc:
        return _accepted(heard, signal) if heard.status == "OK" else _grpc_status(heard, url)
    if isinstance(heard.status, int) and 200 <= heard.status < 300:
        return _accepted(heard, signal)
    return _http_status(heard, signal, url)


def date_of(header: str | None) -> float | None:
    """Return the time of a Date header in seconds since the epoch."""
    try:
        return parsedate_to_datetime(header).timestamp() if header else None
    except ValueError:
        return None


_SILENT: Final = "something took the connection and says nothing: is it a collector, and is the protocol right?"
_CERTIFICATE: Final = "OTEL_EXPORTER_OTLP_CERTIFICATE names a file with the certificate of who signed the receiver's"
_HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS carries the key: authorization=Bearer%20…"


def _accepted(heard: Heard, signal: str) -> Verdict:
    part, response, rejected = _SERVICES[signal]
    said = f"{heard.status} {heard.reason}".strip()
    if heard.content_type and "protobuf" not in heard.content_type and heard.content:
        hint = "this is no OTLP receiver, though it says yes: look at the endpoint"
        return Verdict("refused", f"{said}, but {heard.content_type.partition(';')[0]}", hint)
    module = importlib.import_module(f"opentelemetry.proto.collector.{part}.v1.{part}_service_pb2")
    try:
        partial: Any = getattr(module, response).FromString(heard.content).partial_success
    except Exception:  # protobuf's own error is not public in all of its builds
        return Verdict("refused", f"{said}, but no OTLP answer", "this is no OTLP receiver: look at the endpoint")
    count = int(getattr(partial, rejected))
    text = str(partial.error_message)[:300]
    if count:
        return Verdict("partial", f"{said}, but {count} rejected: {text}".rstrip(": "), "the receiver's log says why")
    return Verdict("arrived", f"{said}: {text}" if text else said)


def _http_status(heard: Heard, signal: str, url: str) -> Verdict:
    said = f"{heard.status} {heard.reason}".strip()
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    hints = {
        401: _HEADERS,
        403: _HEADERS,
        404: f"the path is not there: OTEL_EXPORTER_OTLP_ENDPOINT is a base to which /v1/{signal} "
        f"is appended, {own} is used as it stands",
        405: f"something else listens there: OTLP is taken at /v1/{signal}, usually on port 4318",
        413: "the receiver takes no request of this size",
        415: "the receiver does not take http/protobuf: OTEL_EXPORTER_OTLP_PROTOCOL=grpc?",
        429: "the receiver is busy; the service tries again",
        502: "a proxy answers, the receiver behind it does not; the service tries again",
        503: "the receiver is there and takes nothing now; the service tries again",
        504: "a proxy answers, the receiver behind it does not; the service tries again",
    }
    status = heard.status if isinstance(heard.status, int) else 0
    hint = (
        "redirects are not followed: write the address that it names" if 300 <= status < 400 else hints.get(status, "")
    )
    return Verdict("refused", said, hint)


def _http_trouble(heard: Heard, url: str) -> Verdict:
    import requests

    error, cause = heard.error, _innermost(heard.error)
    if isinstance(error, requests.exceptions.SSLError) or isinstance(cause, ssl.SSLError):
        text = str(cause)
        wrong = "WRONG_VERSION" in text or "HTTP_REQUEST" in text or "record layer" in text
        return Verdict("tls", _short(cause), "no TLS is spoken there: write http://" if wrong else _CERTIFICATE)
    if isinstance(error, requests.exceptions.Timeout):
        return Verdict("timeout", f"no answer within {heard.seconds:.1f} s", _SILENT)
    if isinstance(error, requests.exceptions.ConnectionError):
        return Verdict("unreachable", _short(cause), _nobody(url, grpc=False))
    if isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)):
        return Verdict("broken", _short(error), f"the endpoint needs a scheme: write http://{url}")
    return Verdict("broken", _short(error), "the variables are those that begin with OTEL_EXPORTER_OTLP_")


def _grpc_trouble(heard: Heard) -> Verdict:
    return Verdict("broken", _short(heard.error), "the variables are those that begin with OTEL_EXPORTER_OTLP_")


def _grpc_status(heard: Heard, url: str) -> Verdict:
    code, low = str(heard.status), heard.reason.lower()
    said = f"{code} {heard.reason}".strip()[:300]
    if code == "DEADLINE_EXCEEDED":
        return Verdict("timeout", f"no answer within {heard.seconds:.1f} s", _SILENT)
    if "http/2" in low or "settings frame" in low:
        hint = "no HTTP/2 is spoken there: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or the port that takes gRPC"
        return Verdict("refused", said, hint)
    if any(word in low for word in ("ssl", "certificate", "tls", "handshake")):
        return Verdict("tls", said, f"{_CERTIFICATE}; http:// in the endpoint turns TLS off")
    if "http1" in low or "http/1" in low or "content-type" in low or "invalid header" in low:
        hint = "something speaks HTTP/1 there: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, usually on port 4318"
        return Verdict("refused", said, hint)
    if code == "UNAVAILABLE":
        connected = not any(word in low for word in ("connect", "refused", "resol", "reset", "closed", "unreachable"))
        if connected:
            return Verdict("refused", said, "the receiver is there and takes nothing now; the service tries again")
        return Verdict("unreachable", said, _nobody(url, grpc=True))
    hints = {
        "UNAUTHENTICATED": _HEADERS,
        "PERMISSION_DENIED": _HEADERS,
        "UNIMPLEMENTED": "a gRPC server that takes no OTLP of this signal: look at the endpoint and its pipelines",
        "RESOURCE_EXHAUSTED": "the receiver is busy; the service tries again",
    }
    return Verdict("refused", said, hints.get(code, ""))


def _nobody(url: str, *, grpc: bool) -> str:
    port = urlsplit(url if "//" in url else f"//{url}").port
    if not grpc and port == 4317:
        return "4317 is usually gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or port 4318"
    if grpc and port == 4318:
        return "4318 is usually HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or port 4317"
    return "start a collector there, or name another with OTEL_EXPORTER_OTLP_ENDPOINT"


def _innermost(error: BaseException | None) -> BaseException | None:
    """Return the original error: requests wraps urllib3's error, which wraps the system's."""
    for _ in range(10):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((item for item in getattr(error, "args", ()) if isinstance(item, BaseException)), None)
        if inner is None or inner is error:
            inner = getattr(error, "__cause__", None)
        if inner is None:
            break
        error = inner
    return error


def _short(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)[:300]
    return f"{type(error).__name__}: {error}"[:300]
