"""Limits on one HTTP exchange, whatever the other side does: its time, its bytes and the pause that it asks for.

The limits are an adapter for a session of `requests`: the exporter's own, or one that the SDK's exporters use.
"""

from __future__ import annotations

import http.client
import io
import math
import os
import socket
import threading
import time
import zlib
from email.utils import parsedate_to_datetime
from importlib.metadata import entry_points
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse, connection, connectionpool
from urllib3.exceptions import HTTPError, ReadTimeoutError

from framework.telemetry.export.health import broken
from framework.telemetry.sdk.exporters import BODY, LONGEST, SHORTEST

_WIRE: Final = BODY + (64 << 10)  # an answer with its headers
_PIECE: Final = 16 << 10

_exchange = threading.local()


def pause_of(header: str | None) -> float | None:
    """Return the seconds to wait after a Retry-After, within our limits; None: it gives no usable time."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):
            return None
    return None if math.isnan(seconds) else min(LONGEST, max(SHORTEST, seconds))


def session_of(signal: str) -> requests.Session:
    """Return a session that keeps the limits: a new one, or the one of the configured credential provider.

    Raises whatever such a provider raises.
    """
    prefix = "OTEL_PYTHON_EXPORTER_OTLP_HTTP"
    name = os.environ.get(f"{prefix}_CREDENTIAL_PROVIDER") or os.environ.get(
        f"{prefix}_{signal.upper()}_CREDENTIAL_PROVIDER"
    )
    session = requests.Session()
    for entry in entry_points(group="opentelemetry_otlp_credential_provider", name=name) if name else ():
        session = entry.load()()
    if not isinstance(session, requests.Session):
        raise TypeError(f"credential provider {name!r} gives no session of requests")
    adapter = Bounded()
    for prefix, found in list(session.adapters.items()):
        if type(found) is HTTPAdapter:  # keep an adapter that the provider has mounted
            session.mount(prefix, adapter)
    session.headers["Accept-Encoding"] = "identity"
    return session


def leave(session: requests.Session) -> None:
    """Tell a session of `session_of` that its process is shutting down."""
    for adapter in session.adapters.values():
        if isinstance(adapter, Bounded):
            adapter.leave()


class Bounded(HTTPAdapter):
    """An adapter that limits each exchange.

    It reads no more than BODY of an answer, ends an exchange at its timeout, headers included, and waits a second after
    a failed one.
    """

    _failed_at = -math.inf
    _leaving = False

    def leave(self) -> None:
        """Make no pauses any more, and forbid another try after two exchanges in a row found no listener.

        What a process sends at its shutdown is not worth more time. A single failure may come from a connection that
        the other side has closed.
        """
        self._leaving = True

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: Any, stream: bool = False, timeout: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        seconds = timeout if isinstance(timeout, (int, float)) else LONGEST
        _exchange.deadline, _exchange.left = time.monotonic() + seconds, _WIRE
        failed_before = time.monotonic() < self._failed_at + SHORTEST
        if not self._leaving:
            time.sleep(max(0.0, min(seconds, self._failed_at + SHORTEST - time.monotonic())))
        failed = True
        try:
            raw = super().send(request, stream, seconds, **kwargs).raw
            try:
                content = _plain(raw.headers.get("Content-Encoding", ""), raw.read(BODY, decode_content=False))
            finally:
                raw.close()
            failed = raw.status >= 400
        except ReadTimeoutError as error:
            raise requests.ReadTimeout(error, request=request) from error
        except (HTTPError, TimeoutError) as error:
            raise requests.ConnectionError(error, request=request) from error
        except requests.RequestException as error:
            broken(error)
            if self._leaving and failed_before and isinstance(error, requests.ConnectionError):
                raise requests.RequestException(error, request=request) from error  # the SDK does not repeat this one
            raise
        finally:
            if failed:
                self._failed_at = time.monotonic()
        return self.build_response(request, _rebuilt(raw, content))


class _Wire(io.RawIOBase):
    """The incoming bytes, within the exchange's time and size. `raw`: the socket's own reader."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left())
        count = self._raw.readinto(buffer)
        _exchange.left -= count or 0
        if _exchange.left < 0:
            raise OSError(f"the answer is longer than {_WIRE} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp: Any = io.BufferedReader(_Wire(sock, self.fp.detach()))


class _Clocked:
    """A connection on which every step ends at the exchange's deadline."""

    sock: Any
    timeout: Any
    response_class: Any = _Response

    def _new_conn(self: Any) -> Any:
        self.timeout = _left()
        sock = super()._new_conn()  # type: ignore[misc]
        sock.settimeout(_left())  # for the TLS handshake
        return sock

    def send(self: Any, data: Any) -> None:
        """Send in pieces as large as a TLS record, because a TLS timeout applies to one record."""
        whole = data if isinstance(data, bytes) else b""
        for piece in (whole[at : at + _PIECE] for at in range(0, len(whole), _PIECE)) if whole else (data,):
            if self.sock is not None:
                self.sock.settimeout(_left())
            super().send(piece)  # type: ignore[misc]


# These have the names of urllib3's classes, because the names appear in its messages.
class HTTPConnection(_Clocked, connection.HTTPConnection): ...


class HTTPSConnection(_Clocked, connection.HTTPSConnection): ...


class HTTPConnectionPool(connectionpool.HTTPConnectionPool):
    ConnectionCls: Any = HTTPConnection


class HTTPSConnectionPool(connectionpool.HTTPSConnectionPool):
    ConnectionCls: Any = HTTPSConnection


_POOLS: Final = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


def _left() -> float:
    """Return the seconds that the exchange has left."""
    left: float = _exchange.deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _plain(encoding: str, data: bytes) -> bytes:
    """Return the data decompressed, up to the limit; empty where that fails."""
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return data
    if kind not in ("gzip", "x-gzip", "deflate"):
        return b""
    try:
        return zlib.decompressobj(47).decompress(data, BODY)
    except zlib.error:
        return b""


def _rebuilt(raw: Any, content: bytes) -> HTTPResponse:
    headers = raw.headers.copy()
    for name in ("Content-Encoding", "Content-Length", "Transfer-Encoding"):
        headers.pop(name, None)
    pause = pause_of(headers.pop("Retry-After", None))
    if pause is not None:
        headers["Retry-After"] = f"{pause:.3f}"
    return HTTPResponse(
        body=io.BytesIO(content), headers=headers, status=raw.status, reason=raw.reason, preload_content=False
    )
