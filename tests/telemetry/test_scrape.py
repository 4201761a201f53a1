"""The text that a Prometheus server scrapes: names, escapes, odd clients, and an address that is taken."""

from __future__ import annotations

import socket
import urllib.request

from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from prometheus_client.parser import text_string_to_metric_families

from framework.telemetry.export.prometheus import text_of
from framework.telemetry.export.scrape import LONGEST, ScrapeServer
from tests.support.programs import free_ports, listens, wait_for

ODD = 'a "quoted" \\ word\nand a line'


def metrics() -> ResourceMetrics:
    made = ResourceMetrics()
    for key, value in (("service.name", "relay"), ("service.instance.id", "i-1"), ("host.name", ODD)):
        made.resource.attributes.add(key=key).value.string_value = value
    scope = made.scope_metrics.add()
    counter = scope.metrics.add(name="worker.job.attempts", unit="{attempt}", description=ODD)
    counter.sum.is_monotonic, point = True, counter.sum.data_points.add(as_int=2**53)
    point.attributes.add(key="error.type").value.string_value = ODD
    point.attributes.add(key="9lives").value.bool_value = True
    memory = scope.metrics.add(name="worker.process.memory", unit="By")
    memory.sum.data_points.add(as_int=-7)
    age = scope.metrics.add(name="age.seconds", unit="s")
    age.gauge.data_points.add(as_double=0.5)
    wait = scope.metrics.add(name="wait", unit="s")
    wait.histogram.data_points.add(count=3, sum=1.5, bucket_counts=[1, 0, 2], explicit_bounds=[0.1, 1.0])
    scope.metrics.add(name="nothing")
    return made


def test_names_values_and_escapes_come_through_a_parser() -> None:
    text = text_of([metrics(), metrics()]).decode()
    samples = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    at = (("job", "relay"), ("instance", "i-1"))
    assert samples == {
        ("target_info", (*at, ("host_name", ODD))): 1,
        ("worker_job_attempts_total", (*at, ("error_type", ODD), ("_9lives", "true"))): 2**53,
        ("worker_process_memory_bytes", at): -7,
        ("age_seconds", at): 0.5,
        ("wait_seconds_bucket", (*at, ("le", "0.1"))): 1,
        ("wait_seconds_bucket", (*at, ("le", "1.0"))): 1,
        ("wait_seconds_bucket", (*at, ("le", "+Inf"))): 3,
        ("wait_seconds_sum", at): 1.5,
        ("wait_seconds_count", at): 3,
    }
    assert text.count("# TYPE") == len({line for line in text.splitlines() if line.startswith("# TYPE")})


def test_an_address_that_is_taken_is_said_once_and_served_when_it_is_free_among_clients_that_say_nothing() -> None:
    said: list[str] = []
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        ScrapeServer(f"127.0.0.1:{port}", lambda: [metrics()], said.append)
        wait_for(lambda: said, "the line", 30)
    wait_for(lambda: listens(port), "the server", 30)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(7)]
    silent[0].sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics?x=1", timeout=2 * LONGEST) as answer:
        assert b"worker_job_attempts_total" in answer.read()
    for one in silent:
        one.close()
    (line,) = said
    assert line.startswith(f"metrics cannot be served at 127.0.0.1:{port} yet, trying on: ")
