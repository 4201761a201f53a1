"""Interpretation of a receiver's answer to a test of `worker doctor`, with a hint where the answer is not a success."""

from __future__ import annotations

import importlib
import ssl
from dataclasses import dataclass, field
from threading import Event
from typing import Final, Literal
from urllib.parse import urlsplit

State = Literal["arrived", "partial", "refused", "unreachable", "timeout", "tls", "broken"]

_SILENT: Final = "something took the connection and says nothing: is it a collector, and is the protocol right?"
_CERTIFICATE: Final = "OTEL_EXPORTER_OTLP_CERTIFICATE names a file with the certificate of who signed the receiver's"
_HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS carries the key: authorization=Bearer%20…"
_VARIABLES: Final = "the variables are those that begin with OTEL_EXPORTER_OTLP_"
_BUSY: Final = "the receiver is busy; the service tries again"
_NOT_NOW: Final = "the receiver is there and takes nothing now; the service tries again"
_BEHIND: Final = "a proxy answers, the receiver behind it does not; the service tries again"
_OF_HTTP: Final = {
    **dict.fromkeys(range(300, 400), "redirects are not followed: write the address that it names"),
    401: _HEADERS,
    403: _HEADERS,
    404: "the path is not there: OTEL_EXPORTER_OTLP_ENDPOINT is a base to which /v1/{signal} is appended, "
    "OTEL_EXPORTER_OTLP_{SIGNAL}_ENDPOINT is used as it stands",
    405: "something else listens there: OTLP is taken at /v1/{signal}, usually on port 4318",
    413: "the receiver takes no request of this size",
    415: "the receiver does not take http/protobuf: OTEL_EXPORTER_OTLP_PROTOCOL=grpc?",
    429: _BUSY,
    502: _BEHIND,
    503: _NOT_NOW,
    504: _BEHIND,
}
_OF_GRPC: Final = {
    "UNAUTHENTICATED": _HEADERS,
    "PERMISSION_DENIED": _HEADERS,
    "UNIMPLEMENTED": "a gRPC server that takes no OTLP of this signal: look at the endpoint and its pipelines",
    "RESOURCE_EXHAUSTED": _BUSY,
    "UNAVAILABLE": _NOT_NOW,
}
_OF_GRPC_TEXT: Final[tuple[tuple[tuple[str, ...], State, str], ...]] = (
    (("http/2", "settings frame"), "refused",
     "no HTTP/2 is spoken there: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or the port that takes gRPC"),
    (("ssl", "certificate", "tls", "handshake"), "tls", f"{_CERTIFICATE}; http:// in the endpoint turns TLS off"),
    (("http1", "http/1", "content-type", "invalid header"), "refused",
     "something speaks HTTP/1 there: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, usually on port 4318"),
)  # fmt: skip
_PORTS: Final[dict[tuple[bool, int | None], str]] = {
    (False, 4317): "4317 is usually gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or port 4318",
    (True, 4318): "4318 is usually HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or port 4317",
}
_NOT_CONNECTED: Final = ("connect", "refused", "resol", "reset", "closed", "unreachable")


@dataclass
class Heard:
    """The first answer to one test, as it came over the network.

    Attributes:
        status: the HTTP status, or the code of gRPC, with `reason` beside it; None: there was no answer.
        error: why there was no answer.
        skew: seconds by which our clock is ahead of the receiver's; None: the answer has no date.
        done: set when there is an answer or an error, after so many `seconds`.
    """

    status: int | str | None = None
    reason: str = ""
    content: bytes = b""
    content_type: str = ""
    error: BaseException | None = None
    seconds: float = 0.0
    skew: float | None = None
    done: Event = field(default_factory=Event)

    @property
    def said(self) -> str:
        return f"{self.status} {self.reason}".strip()[:300]


@dataclass(frozen=True)
class Answer:
    """The result of one test: its text for people, and how to solve the problem; empty where no solution is known."""

    state: State
    text: str
    hint: str = ""


def interpret(heard: Heard, signal: str, *, grpc: bool, url: str, limit: float) -> Answer:
    """Return the result of a test at `url` (without credentials), waited for at most `limit` seconds."""
    if not heard.done.is_set():
        return Answer("timeout", f"no answer within {limit:g} s", _SILENT)
    if heard.error is not None:
        return Answer("broken", _short(heard.error), _VARIABLES) if grpc else _http_error(heard, url)
    if heard.status == "OK" if grpc else isinstance(heard.status, int) and 200 <= heard.status < 300:
        return _accepted(heard, signal)
    if grpc:
        return _grpc_status(heard, url)
    hint = _OF_HTTP.get(heard.status if isinstance(heard.status, int) else 0, "")
    return Answer("refused", heard.said, hint.replace("{signal}", signal).replace("{SIGNAL}", signal.upper()))


def _accepted(heard: Heard, signal: str) -> Answer:
    if heard.content_type and "protobuf" not in heard.content_type and heard.content:
        what = f"{heard.said}, but {heard.content_type.partition(';')[0]}"
        return Answer("refused", what, "this is no OTLP receiver, though it says yes: look at the endpoint")
    part = "trace" if signal == "traces" else signal
    module = importlib.import_module(f"opentelemetry.proto.collector.{part}.v1.{part}_service_pb2")
    try:
        response = getattr(module, f"Export{part.title()}ServiceResponse").FromString(heard.content)
    except Exception:  # protobuf's own error is not public in all of its builds
        return Answer("refused", f"{heard.said}, but no OTLP answer", "this is no OTLP receiver: look at the endpoint")
    said = {field.name: value for field, value in response.partial_success.ListFields()}
    text = str(said.pop("error_message", ""))[:300]
    if count := sum(said.values()):  # the only other field is the number of rejected items
        what = f"{heard.said}, but {count} rejected: {text}".rstrip(": ")
        return Answer("partial", what, "the receiver's log says why")
    return Answer("arrived", f"{heard.said}: {text}" if text else heard.said)


def _http_error(heard: Heard, url: str) -> Answer:
    import requests

    error, cause = heard.error, _innermost(heard.error)
    if isinstance(error, requests.exceptions.SSLError) or isinstance(cause, ssl.SSLError):
        plain = any(part in str(cause) for part in ("WRONG_VERSION", "HTTP_REQUEST", "record layer"))
        return Answer("tls", _short(cause), "no TLS is spoken there: write http://" if plain else _CERTIFICATE)
    if isinstance(error, requests.exceptions.Timeout):
        return Answer("timeout", f"no answer within {heard.seconds:.1f} s", _SILENT)
    if isinstance(error, requests.exceptions.ConnectionError):
        return Answer("unreachable", _short(cause), _unreachable(url, grpc=False))
    if isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)):
        return Answer("broken", _short(error), f"the endpoint needs a scheme: write http://{url}")
    return Answer("broken", _short(error), _VARIABLES)


def _grpc_status(heard: Heard, url: str) -> Answer:
    code, low = str(heard.status), heard.reason.lower()
    if code == "DEADLINE_EXCEEDED":
        return Answer("timeout", f"no answer within {heard.seconds:.1f} s", _SILENT)
    for words, state, hint in _OF_GRPC_TEXT:
        if any(word in low for word in words):
            return Answer(state, heard.said, hint)
    if code == "UNAVAILABLE" and any(word in low for word in _NOT_CONNECTED):
        return Answer("unreachable", heard.said, _unreachable(url, grpc=True))
    return Answer("refused", heard.said, _OF_GRPC.get(code, ""))


def _unreachable(url: str, *, grpc: bool) -> str:
    port = urlsplit(url if "//" in url else f"//{url}").port
    return _PORTS.get((grpc, port), "start a collector there, or name another with OTEL_EXPORTER_OTLP_ENDPOINT")


def _innermost(error: BaseException | None) -> BaseException | None:
    """Return the original error: requests wraps urllib3's error, which wraps the system's."""
    wrapped = (getattr(error, "reason", None), *getattr(error, "args", ()), getattr(error, "__cause__", None))
    inner = next((one for one in wrapped if isinstance(one, BaseException) and one is not error), None)
    return error if inner is None else _innermost(inner)


def _short(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)[:300]
    return f"{type(error).__name__}: {error}"[:300]
