"""The text that a Prometheus server scrapes: names, escapes, odd clients, old files, and an address that is taken."""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families

from framework.telemetry.export.prometheus import text_of
from framework.telemetry.export.scrape import LONGEST, MOST, OLDEST, ScrapeServer, snapshots
from framework.telemetry.sdk.snapshot import Snapshot
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
        ("worker_job_attempts_total", (*at, ("_9lives", "true"), ("error_type", ODD))): 2**53,
        ("worker_process_memory_bytes", at): -7,
        ("age_seconds", at): 0.5,
        ("wait_seconds_bucket", (*at, ("le", "0.1"))): 1,
        ("wait_seconds_bucket", (*at, ("le", "1.0"))): 1,
        ("wait_seconds_bucket", (*at, ("le", "+Inf"))): 3,
        ("wait_seconds_sum", at): 1.5,
        ("wait_seconds_count", at): 3,
    }
    assert text.count("# TYPE") == len({line for line in text.splitlines() if line.startswith("# TYPE")})


class Measured:
    """A service's own metrics, as the SDK makes them."""

    def __init__(self, **resource: str) -> None:
        self.reader = InMemoryMetricReader()
        named = {"service.name": "relay", "service.instance.id": "i-1", **resource}
        self.provider = MeterProvider([self.reader], resource=Resource(named))
        self.meter = self.provider.get_meter("one")
        self.other = self.provider.get_meter("two")

    def data(self) -> Any:
        return self.reader.get_metrics_data()

    def text(self) -> str:
        found = encode_metrics(self.data()).resource_metrics
        return text_of([*found, *found]).decode()  # a second look at the same series adds nothing


def labels_of(text: str, name: str) -> dict[str, str]:
    """Return a sample's labels; each must be a name, and come once: a server refuses the whole page otherwise."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    pairs = re.findall(r'([^,{]*)="([^"]*)"', line)
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label) for label, _ in pairs), line
    assert len(dict(pairs)) == len(pairs), line
    list(text_string_to_metric_families(text))
    return dict(pairs)


def test_attributes_with_equal_labels_share_one_and_cannot_take_those_of_the_slot() -> None:
    service = Measured(job="x")
    odd = {"a_b": "2", "a.b": "1", "c:d": "3"}
    taken = {"job": "nightly", "instance": "z", "__name__": "n", "le": "y"}
    service.meter.create_counter("orders").add(1, odd | taken)
    service.meter.create_gauge("size").set(1, {"le": "x", "exported_job": "2", "job": "1"})
    text, at = service.text(), {"job": "relay", "instance": "i-1"}
    exported = {f"exported_{label}": value for label, value in taken.items()}
    assert labels_of(text, "orders_total") == at | {"a_b": "1;2", "c_d": "3"} | exported
    assert labels_of(text, "size") == at | {"exported_le": "x", "exported_job": "2;1"}
    assert labels_of(text, "target_info") == at | {"exported_job": "x"}


def test_a_label_le_of_a_histogram_is_that_of_its_bounds() -> None:
    service = Measured()
    service.meter.create_histogram("sizes", explicit_bucket_boundaries_advisory=[1]).record(3, {"le": "x"})
    (family,) = [one for one in text_string_to_metric_families(service.text()) if one.name == "sizes"]
    assert {(sample.labels.get("le"), sample.labels["exported_le"]) for sample in family.samples} == {
        ("1.0", "x"), ("+Inf", "x"), (None, "x"),
    }  # fmt: skip
    assert service.text().count(',le="') == 2


def test_what_two_meters_count_under_one_name_is_added_and_a_name_has_one_type() -> None:
    service = Measured()
    for meter, more in ((service.meter, 1), (service.other, 2)):
        meter.create_counter("calls").add(more, {"a": 1, "b": 2} if more == 1 else {"b": 2, "a": 1})
        meter.create_histogram("sizes", explicit_bucket_boundaries_advisory=[1.5]).record(more)
        meter.create_histogram("odd", explicit_bucket_boundaries_advisory=[more]).record(more)
        meter.create_gauge("level").set(more)
    service.meter.create_counter("calls").add(4, {"a": "1", "b": "2"})  # other attributes, and the same text
    service.meter.create_gauge("mixed").set(1)
    service.other.create_histogram("mixed").record(1)
    lines = re.sub(r'job="relay",instance="i-1",?', "", service.text()).splitlines()
    found = {name: value for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
    assert found == {
        'calls_total{a="1",b="2"}': "7",
        'sizes_bucket{le="1.5"}': "1", 'sizes_bucket{le="+Inf"}': "2", "sizes_sum{}": "3.0", "sizes_count{}": "2",
        'odd_bucket{le="1.0"}': "1", 'odd_bucket{le="+Inf"}': "1", "odd_sum{}": "1.0", "odd_count{}": "1",
        "level{}": "2", "mixed{}": "1",
        "target_info{}": "1",
    }  # fmt: skip
    assert [line for line in lines if line.startswith("# TYPE mixed")] == ["# TYPE mixed gauge"]


def test_a_snapshot_is_private_and_served_only_while_it_is_new(tmp_path: Path) -> None:
    service, path = Measured(), tmp_path / "0.maintenance.m.metrics"
    service.meter.create_gauge("depth").set(3)
    left = tmp_path / f".{path.name}"
    left.touch(0o600)
    left.write_bytes(b"by a kill" * 1000)
    Snapshot(path).export(service.data())
    assert [(one.name, stat.S_IMODE(one.stat().st_mode)) for one in tmp_path.iterdir()] == [(path.name, 0o600)]
    other = tmp_path / "other"
    left.symlink_to(other)
    Snapshot(path).export(service.data())
    assert not other.exists()
    assert len(snapshots([path, tmp_path / "missing"])) == 1
    for age in (OLDEST + 1, -OLDEST - 60):  # of a process that stands still, and of one before the clock was set back
        os.utime(path, (time.time() - age,) * 2)
        assert snapshots([path]) == []


def test_a_failing_scrape_is_answered_and_said_once_for_each_kind() -> None:
    said: list[str] = []
    errors: list[type[Exception]] = [KeyError, KeyError, OSError]

    def collect() -> list[ResourceMetrics]:
        if errors:
            raise errors.pop(0)("a bug")
        return [metrics()]

    (port,) = free_ports(1)
    ScrapeServer(f"127.0.0.1:{port}", collect, said.append)
    wait_for(lambda: listens(port), "the server", 30)
    address = f"http://127.0.0.1:{port}/metrics"
    for _ in range(3):
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(address, timeout=2 * LONGEST)
    assert said == ["a scrape of /metrics failed: KeyError: 'a bug'", "a scrape of /metrics failed: OSError: a bug"]
    with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=2 * LONGEST) as answer:
        assert (answer.status, answer.read()) == (200, b"")
        length = int(answer.headers["Content-Length"])
    with urllib.request.urlopen(address, timeout=2 * LONGEST) as answer:
        assert len(answer.read()) == length


def test_clients_for_whom_no_thread_can_be_started_take_no_place_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    (port,) = free_ports(1)
    ScrapeServer(f"127.0.0.1:{port}", lambda: [metrics()], said.append)
    wait_for(lambda: listens(port), "the server", 30)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refused)
        for _ in range(MOST + 1):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                assert client.recv(1) == b""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2 * LONGEST) as answer:
        assert answer.status == 200
    assert said == ["a scrape of /metrics failed: RuntimeError: can't start new thread"]


def _refused(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")  # what the interpreter says at a limit of tasks


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
