"""What is secret in an address or a header stands nowhere: not in the log of a service, not in what `worker` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.telemetry.hostile import Hostile, says

SECRET = "s3cr3tW0rd"
SERVICE = """
import os, signal
from framework import Queue, RetryPolicy, WorkerApp
from opentelemetry import trace
class Service(WorkerApp):
    q = Queue[str]("q", retry=RetryPolicy(max_retries=0))
    @q.handler
    def work(self, payload: str) -> None:
        with trace.get_tracer("own").start_as_current_span("own"):
            print("ran", flush=True)
        os.kill(int(os.environ["SUPERVISOR"]), signal.SIGTERM)
if __name__ == "__main__":
    Service.q.enqueue("it")
"""


def environ_of(place: Path, port: int, protocol: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(place), *sys.path)),
        "WORKER_ENGINE_URL": f"spool:{place}/spool",
        "WORKER_LOG_LEVEL": "debug",
        "WORKER_TELEMETRY_FLUSH": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@127.0.0.1:{port}/p/{SECRET}path?token={SECRET}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET},x-api-key={SECRET},{SECRET}, a=%0a{SECRET}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "ALL_PROXY": "" if port else f"http://user:{SECRET}@127.0.0.1:9",
    }


@pytest.mark.parametrize("way", ["refused", "proxy", "grpc"])
def test_no_secret_stands_in_the_log_or_on_the_command_line(tmp_path, way):
    (tmp_path / "service.py").write_text(SERVICE)
    worker = str(Path(sys.executable).with_name("worker"))
    with Hostile(says("401 Unauthorized")) as receiver:
        port = {"refused": receiver.port, "proxy": 0, "grpc": 9}[way]
        env = environ_of(tmp_path, port, "grpc" if way == "grpc" else "http/protobuf")
        commands = {
            "enqueue": [sys.executable, "service.py"],
            "run": ["sh", "-c", f'SUPERVISOR=$$ exec "{worker}" run service'],
            "doctor": [worker, "doctor", "service", "--timeout", "1"],
            "json": [worker, "doctor", "service", "--timeout", "1", "--json"],
            "engine": [worker, "queues", "service"],
        }
        if way != "refused":
            del commands["json"]
        said = {}
        for name, command in commands.items():
            if name == "engine":
                env |= {"WORKER_ENGINE_URL": f"postgres://user:{SECRET}@db:5432/{SECRET}?x={SECRET}"}
            done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            said[name] = done.stdout + done.stderr
    assert "telemetry_unreachable" in said["run"]
    assert "postgres://db:5432" in said["engine"]
    for name, text in said.items():
        at = text.find(SECRET)
        assert at < 0, f"{name}: {text[max(0, at - 300) : at + 50]}"
