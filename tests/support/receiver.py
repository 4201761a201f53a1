"""Real OTLP receivers for tests, over http/protobuf and grpc. They can also refuse, hang and die.

with Receiver() as receiver:
    start_something(env=receiver.env())
    receiver.wait_for(lambda: receiver.spans("process deliveries"), timeout=10)
"""

from __future__ import annotations

import gzip
import ssl
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.received import Store

MESSAGES = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_BLRP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


class Receiver(Store):
    """OTLP over http on 127.0.0.1. `status` is what it answers; `hang()` makes it take requests and say nothing.

    Attributes:
        port: where it listens; pass it again to come back at the same place after `close`.
        status: 200, or 503, 400, 429 and so on; only what was answered with 200 is kept.
        kind, body: content type and content of the answer: empty, or a partial success for instance.
        date: of the answer, in place of the right one; empty = the right one.
        asked: number of requests that came, whatever became of them.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self.status = 200
        self.body = b""
        self.kind = "application/x-protobuf"
        self.date = ""
        self.asked = 0
        self.headers: list[dict[str, str]] = []
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        self._server.daemon_threads = True
        # Clients are killed, and handshakes fail: that is no news.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def env(self, *, fast: bool = True) -> dict[str, str]:
        """Environment of a process that reports here; `fast` exports within a fraction of a second."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}"} | (FAST if fast else {})

    def encrypt(self, context: ssl.SSLContext) -> None:
        """From now on only TLS is spoken; each handshake in the thread of its connection. One that fails is no news."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def hang(self) -> None:
        """From now on requests are read and left without an answer."""
        self._may_answer.clear()

    def resume(self) -> None:
        self._may_answer.set()

    def take(self, path: str, encoding: str, body: bytes, headers: dict[str, str]) -> int:
        """Handles one request; the status to answer."""
        with self.changed:
            self.asked += 1
            self.headers.append(headers)
            self.changed.notify_all()
        self._may_answer.wait(60)
        message = MESSAGES.get(path)
        if message is None:
            return 404
        if self.status == 200:
            data = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)(body)
            self.add(message.FromString(data))
        return self.status

    def close(self) -> None:
        """Dies: the port is free, connections are refused."""
        self._may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status = receiver.take(self.path, headers.get("content-encoding", ""), body, headers)
            self.send_response(status)
            self.send_header("content-type", receiver.kind)
            self.send_header("content-length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return receiver.date or super().date_time_string(timestamp)

        def log_message(self, *_: Any) -> None: ...

    return Handler


class GrpcReceiver(Store):
    """OTLP over grpc on 127.0.0.1. `refuses` is the name of the status that it answers, where it is not OK; with
    `rejects` a part of each trace request is not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = ""
        self.rejects = 0
        import grpc
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(
            _Servicer(self, trace_service_pb2.ExportTraceServiceResponse), self._server
        )
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(
            _Servicer(self, metrics_service_pb2.ExportMetricsServiceResponse), self._server
        )
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(
            _Servicer(self, logs_service_pb2.ExportLogsServiceResponse), self._server
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def env(self) -> dict[str, str]:
        place = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        return place | FAST

    def close(self) -> None:
        self._server.stop(0).wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Servicer:
    def __init__(self, receiver: GrpcReceiver, response: Any) -> None:
        self._receiver = receiver
        self._response = response

    def Export(self, request: Any, context: Any) -> Any:
        if self._receiver.refuses:
            import grpc

            context.abort(grpc.StatusCode[self._receiver.refuses], "not here")
        self._receiver.add(request)
        answer = self._response()
        if self._receiver.rejects and hasattr(answer.partial_success, "rejected_spans"):
            answer.partial_success.rejected_spans = self._receiver.rejects
        return answer
